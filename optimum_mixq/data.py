# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Images as batches that a model takes, whatever they come from (`sources.py`).

`images.batches(rows, size)` streams rows through the model's own image processor; `draw_rows` picks a seeded subset.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Pixels (B, C, H, W) float32 as the model takes them, labels (B,) int64 or None, and one fingerprint per row."""

    pixel_values: Tensor
    labels: Tensor | None
    fingerprints: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pixel_values)


class Row(Protocol):
    def __call__(self, index: int) -> tuple[Any, int | None]: ...


@dataclass(frozen=True)
class Images:
    """Rows of one source. Nothing is decoded before `batches` reaches it."""

    count: int
    read: Row
    prepare: Callable[[list[Any], Sequence[int]], Tensor]
    num_labels: int
    description: str

    def __len__(self) -> int:
        return self.count

    def batches(self, rows: Sequence[int], batch_size: int) -> Iterator[Batch]:
        for start in range(0, len(rows), batch_size):
            indices = rows[start : start + batch_size]
            images, labels = zip(*(self.read(index) for index in indices), strict=True)
            pixel_values = self.prepare(list(images), indices)  # (B, C, H, W)
            yield Batch(pixel_values, self._check_labels(labels, indices), tuple(map(fingerprint, pixel_values)))

    def _check_labels(self, labels: Sequence[int | None], indices: Sequence[int]) -> Tensor | None:
        if any(label is None for label in labels):
            return None
        for label, index in zip(labels, indices, strict=True):
            if not 0 <= int(label) < self.num_labels:  # type: ignore[arg-type]
                raise ValueError(
                    f"Row {index} of {self.description} has label {label}, but the model has {self.num_labels} "
                    f"classes (0..{self.num_labels - 1}). Use images of the classes that the model was trained on."
                )
        return torch.tensor([int(label) for label in labels])  # type: ignore[arg-type]


def fingerprint(pixels: Tensor) -> str:
    """Return a short digest of one preprocessed image: the same picture is recognised in whatever source it stands."""
    array = pixels.detach().to(torch.float32).contiguous().cpu().numpy()
    return hashlib.sha1(array.tobytes(), usedforsecurity=False).hexdigest()[:16]


def draw_rows(images: Images, count: int | None, seed: int) -> list[int]:
    """Return `count` row numbers, drawn without replacement by `seed`; all rows, in order, for None."""
    if count is None:
        return list(range(len(images)))
    if count > len(images):
        raise ValueError(
            f"Expected at least {count} images, found {len(images)} in {images.description}. "
            f"Add images, or ask for at most {len(images)}."
        )
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(len(images), generator=generator)[:count].tolist()


def exclude_fingerprints(batches: Iterable[Batch], seen: frozenset[str]) -> Iterator[Batch]:
    """Yield the batches without the rows that served elsewhere, so that calibration images are never evaluated."""
    for batch in batches:
        keep = [position for position, digest in enumerate(batch.fingerprints) if digest not in seen]
        if len(keep) == len(batch):
            yield batch
        elif keep:
            labels = None if batch.labels is None else batch.labels[keep]
            yield Batch(batch.pixel_values[keep], labels, tuple(batch.fingerprints[position] for position in keep))
