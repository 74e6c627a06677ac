# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Which image serves what: whatever made a model, by calibration, choice of bits or training, does not judge it.

Images are told apart by digests of their pixels as the model takes them, so that one is recognised in every source.
"""

import base64
import binascii
import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from transformers.utils import cached_file, logging

from optimum_mixq.config import MixQConfig
from optimum_mixq.images.batches import Batch, Images, draw_rows
from optimum_mixq.utils.files import write_json
from optimum_mixq.utils.progress import progress_bar


logger = logging.get_logger(__name__)
FILE_NAME = "mixq_images.json"
FORMAT = 1
DIGEST_BYTES = 8
Purpose = Literal["calibration", "sensitivity", "training"]
PURPOSES: tuple[Purpose, ...] = ("calibration", "sensitivity", "training")


@dataclass(frozen=True)
class ServedImages:
    """Digests of the images that served each purpose; `complete` says whether these are all."""

    calibration: frozenset[str] = frozenset()
    sensitivity: frozenset[str] = frozenset()  # and relevance, and the comparison of plans
    training: frozenset[str] = frozenset()
    complete: bool = True

    @property
    def digests(self) -> frozenset[str]:
        return self.calibration | self.sensitivity | self.training

    def add(self, purpose: Purpose, digests: Iterable[str]) -> "ServedImages":
        return dataclasses.replace(self, **{purpose: getattr(self, purpose) | frozenset(digests)})

    def save(self, path: str | Path) -> None:
        """Write the digests of each purpose as base64 of their bytes, 11 characters per image."""
        content: dict[str, Any] = {"format": FORMAT, "complete": self.complete}
        for purpose in PURPOSES:
            joined = bytes.fromhex("".join(sorted(getattr(self, purpose))))
            content[purpose] = base64.b64encode(joined).decode()
        write_json(Path(path), content)

    @classmethod
    def load(cls, path: str | Path) -> "ServedImages":
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']} instead of {FORMAT}")
            return cls(**{name: _unpack(content[name]) for name in PURPOSES}, complete=content["complete"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is no record of images that this release of optimum-mixq can read ({error}). Delete it to go "
                "on without: images that served calibration are then not left out of evaluation."
            ) from error

    @classmethod
    def find(cls, folder_or_name: str | Path, token: str | bool | None = None) -> "ServedImages | None":
        """Return what was saved beside a model in a folder or on the Hub, or None where nothing was."""
        found = cached_file(
            str(folder_or_name), FILE_NAME, token=token,
            _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False,
        )  # fmt: skip
        return None if found is None else cls.load(found)


def draw_batches(images: Images, count: int, seed: int, batch_size: int) -> list[Batch]:
    """Return `count` images in batches, drawn without replacement by `seed`."""
    return list(images.batches(draw_rows(images, count, seed), batch_size))


def digests_of(batches: Iterable[Batch]) -> set[str]:
    return {digest for batch in batches for digest in batch.fingerprints}


class UnseenBatches:
    """The batches of a source without the images that served, each time that they are iterated over.

    `kept` and `left_out` count the images of the last pass. A pass that keeps none raises a ValueError.
    """

    def __init__(self, images: Images, rows: Sequence[int], batch_size: int, served: ServedImages) -> None:
        self.images, self.rows, self.batch_size, self.served = images, rows, batch_size, served
        self.kept = self.left_out = 0

    def __iter__(self) -> Iterator[Batch]:
        self.kept, self.left_out, seen = 0, 0, self.served.digests
        for batch in self.images.batches(self.rows, self.batch_size):
            keep = [position for position, digest in enumerate(batch.fingerprints) if digest not in seen]
            self.kept += len(keep)
            self.left_out += len(batch) - len(keep)
            if len(keep) == len(batch):
                yield batch
            elif keep:
                labels = None if batch.labels is None else batch.labels[keep]
                yield Batch(batch.pixel_values[keep], labels, tuple(batch.fingerprints[row] for row in keep))
        if not self.kept:
            raise ValueError(
                f"There are no images to evaluate on: all {self.left_out} of {self.images.description} served "
                "calibration, the choice of bits or training. Evaluate on other images, or name another split."
            )

    def summary(self) -> str | None:
        """Return the sentence that tells how many images were left out, or None where none were."""
        if not self.left_out:
            return None
        return f"{tell_left_out(self.left_out)} ({self.kept} remain)."


class Selection:
    """Draws the images for each purpose, and remembers which served."""

    def __init__(self, served: ServedImages | None = None) -> None:
        self.served = served or ServedImages()

    def calibration(self, images: Images, config: MixQConfig) -> list[Tensor]:
        """Return the pixels of the images that set the ranges, in batches: as many as are asked for, or all."""
        count = min(len(images), config.calibration_samples)
        batches = draw_batches(images, count, config.seed, config.batch_size)
        self.served = self.served.add("calibration", digests_of(batches))
        return [batch.pixel_values for batch in batches]

    def measurement(self, images: Images, config: MixQConfig) -> list[Batch]:
        """Return the images that bits are chosen on: as many as are asked for, or all that there are."""
        count = min(len(images), config.sensitivity_samples)
        batches = draw_batches(images, count, config.seed, config.batch_size)
        self.served = self.served.add("sensitivity", digests_of(batches))
        return batches

    def training(self, images: "WatchedImages") -> None:
        """Remember that all of these images served training."""
        self.served = self.served.add("training", images.all_digests())

    def evaluation(self, images: Images, samples: int | None, batch_size: int) -> UnseenBatches:
        """Return the batches of a source, or of `samples` of its images, without those that served."""
        return UnseenBatches(images, draw_rows(images, samples, seed=0), batch_size, self.served)

    @staticmethod
    def tell(batches: UnseenBatches) -> None:
        """Warn of images that the last pass left out."""
        summary = batches.summary()
        if summary is not None:
            logger.warning(summary)


@dataclass(frozen=True)
class WatchedImages(Images):
    """Images that remember the digest of each row that goes by, so that few are decoded for their digests alone."""

    seen: dict[int, str] = field(default_factory=dict)

    def batches(self, rows: Sequence[int], batch_size: int) -> Iterator[Batch]:
        position = 0
        for batch in super().batches(rows, batch_size):
            self.seen.update(zip(rows[position : position + len(batch)], batch.fingerprints, strict=True))
            position += len(batch)
            yield batch

    def all_digests(self, batch_size: int = 32) -> frozenset[str]:
        """Return the digests of all rows; those that went by before are not read again."""
        missing = [row for row in range(len(self)) if row not in self.seen]
        bar = progress_bar(len(missing), "Telling training images apart", "image", shown=len(missing) > 0)
        for batch in self.batches(missing, batch_size):
            bar.update(len(batch))
        bar.close()
        return frozenset(self.seen.values())


def watch(images: Images) -> WatchedImages:
    """Return the same images, which remember their digests."""
    return WatchedImages(**{entry.name: getattr(images, entry.name) for entry in dataclasses.fields(Images)})


def tell_left_out(count: int) -> str:
    """Return what was left out, as a sentence without its full stop."""
    images = "1 image" if count == 1 else f"{count} images"
    verb = "was" if count == 1 else "were"
    return f"{images} that served calibration, the choice of bits or training {verb} left out"


def _unpack(text: str) -> frozenset[str]:
    try:
        joined = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"no base64: {error}") from error
    if len(joined) % DIGEST_BYTES:
        raise ValueError(f"{len(joined)} bytes are no whole number of digests")
    return frozenset(joined[at : at + DIGEST_BYTES].hex() for at in range(0, len(joined), DIGEST_BYTES))
