# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Images as batches that a model takes, whatever they come from (`sources.py`).

`images.batches(rows, size)` streams rows through the model's own image processor; `draw_rows` picks a seeded subset.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from optimum_mixq.images.labels import Label, LabelReader, read_class_number, stack_labels


Role = Literal["calibration", "evaluation"]


@dataclass(frozen=True)
class Batch:
    """Pixels (B, C, H, W) float32 as the model takes them, labels or None, and one fingerprint per row.

    Labels are class numbers (B,) int64. Where a model has several classes or targets per image they are
    (B, num_labels) float32, and (B,) float32 for a single target. What else a label is, its kind tells
    (`label_kinds.py`).
    """

    pixel_values: Tensor
    labels: Tensor | None
    fingerprints: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pixel_values)

    def split(self, images: int) -> "list[Batch]":
        """Return the batch in parts of that many images; the last may have fewer."""
        starts = range(0, len(self), images)
        return [self.part(slice(start, start + images)) for start in starts]

    def part(self, rows: slice) -> "Batch":
        """Return some of the batch's images."""
        labels = None if self.labels is None else self.labels[rows]
        return Batch(self.pixel_values[rows], labels, self.fingerprints[rows])


def take_images(batches: Iterable[Batch], count: int) -> list[Batch]:
    """Return the first images of the batches, so many of them or all."""
    taken: list[Batch] = []
    for batch in batches:
        left = count - sum(map(len, taken))
        if left <= 0:
            break
        taken.append(batch.split(left)[0])
    return taken


def first_images(batches: Iterable[Tensor], count: int) -> list[Tensor]:
    """Return what `take_images` does, of batches (B, C, H, W) of pixels alone."""
    return [batch.pixel_values for batch in take_images((Batch(pixels, None, ()) for pixels in batches), count)]


@dataclass(frozen=True)
class Images:
    """Rows of one source. Nothing is decoded before `batches` reaches it.

    `read` returns a row's image and its label as the source has it, `labels` turns that into the model's. `prepare`
    makes pixel values of images, and labels that fit these. For calibration a label that the model does not know
    counts as none; for evaluation it raises.
    """

    count: int
    read: Callable[[int], tuple[Any, Any]]
    prepare: Callable[[list[Any], list[Label | None], Sequence[int]], tuple[Tensor, list[Label | None]]]
    num_labels: int  # of the model; 0 where it has no classes, and labels are the source's own
    description: str
    role: Role = "evaluation"
    labels: LabelReader | None = None

    def __len__(self) -> int:
        return self.count

    def batches(self, rows: Sequence[int], batch_size: int) -> Iterator[Batch]:
        for start in range(0, len(rows), batch_size):
            indices = rows[start : start + batch_size]
            images, raw_labels = zip(*(self.read(index) for index in indices), strict=True)
            labels = [self._read_label(raw, index) for raw, index in zip(raw_labels, indices, strict=True)]
            pixel_values, labels = self.prepare(list(images), labels, indices)  # (B, C, H, W)
            labels = [self._check_label(label, index) for label, index in zip(labels, indices, strict=True)]
            yield Batch(pixel_values, stack_labels(labels), tuple(map(fingerprint, pixel_values)))

    def _read_label(self, raw: Any, index: int) -> Label | None:
        if raw is None or (self.labels is not None and self.labels.mismatch is not None):
            return None
        try:
            return read_class_number(raw, self.num_labels) if self.labels is None else self.labels.read(raw)
        except ValueError as error:
            self._refuse_label(index, error)
            return None

    def _check_label(self, label: Label | None, index: int) -> Label | None:
        try:
            if label is not None and self.labels is not None and self.labels.check is not None:
                self.labels.check(label)
            return label
        except ValueError as error:
            self._refuse_label(index, error)
            return None

    def _refuse_label(self, index: int, error: ValueError) -> None:
        if self.role == "evaluation":
            raise ValueError(f"Row {index} of {self.description} has {error}.") from error


def fingerprint(pixels: Tensor) -> str:
    """Return a short digest of one preprocessed image: the same picture is recognised in whatever source it stands."""
    array = pixels.detach().to(torch.float32).contiguous().cpu().numpy()
    return hashlib.sha1(array.tobytes(), usedforsecurity=False).hexdigest()[:16]


def draw_rows(images: Images, count: int | None, seed: int) -> list[int]:
    """Return `count` row numbers, drawn without replacement by `seed`; all rows, in order, for None."""
    if count is None:
        return list(range(len(images)))
    if count < 1:
        raise ValueError(f"Expected a positive number of images to take from {images.description}, found {count}.")
    if count > len(images):
        raise ValueError(
            f"Expected at least {count} images, found {len(images)} in {images.description}. "
            f"Add images, or ask for at most {len(images)}."
        )
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(len(images), generator=generator)[:count].tolist()
