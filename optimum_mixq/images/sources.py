# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""From whatever images a user has to `Images`: rows read one at a time.

A source is a folder, the name of a data set on the Hub, a `datasets.Dataset`, a torch data set, a DataLoader, tensors,
a list of pictures, with labels or without, or a dict of columns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import logging

from optimum_mixq.images import depths, masks, objects  # noqa: F401 (importing them registers them)
from optimum_mixq.images.batches import Images, Role
from optimum_mixq.images.decoding import PICTURES, read_picture
from optimum_mixq.images.folders import load_rows
from optimum_mixq.images.generated import generator_names, open_generated
from optimum_mixq.images.label_kinds import label_kind_of
from optimum_mixq.images.loaders import batch_splitter, drawn_rows, row_collator
from optimum_mixq.images.preparation import check_size, require_processor
from optimum_mixq.images.samples import IMAGE_COLUMNS, NAME_THE_COLUMN, label_feature, split_sample
from optimum_mixq.images.splits import take_split


if TYPE_CHECKING:
    import datasets

logger = logging.get_logger(__name__)


def open_images(
    source: Any,
    model: PreTrainedModel,
    processor: BaseImageProcessor | None,
    role: Role = "calibration",
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    label_names: Mapping[Any, str | int] | None = None,
    on_error: Literal["raise", "skip"] = "raise",
) -> Images:
    """Return the rows of a source as `Images`, which every function that takes a data set accepts too.

    Args:
        source: an image folder's path, the name of a data set on the Hub, "synthetic" or "noise" for images that are
            made from the model (a folder of that name is "./synthetic"), a `datasets.Dataset` or `DatasetDict`, a
            torch data set or a DataLoader with a length, a list of images or of pairs (image, label), a dict of
            columns such as {"image": [...], "label": [...]}, or pixel values (N, C, H, W) as the model takes them.
            An image is a PIL image, a file's path, a uint8 array (H, W, 3), or pixel values (C, H, W).
        model: the model that the images are for; its classes are what labels are matched with. For one without a
            classifier they stay the source's own.
        processor: the model's own image processor; needed for everything but pixel values.
        role: what the images are for. It chooses among the splits of a folder or data set when `split` is None, and
            for evaluation labels have to be the model's.
        split: a split's name, or a part of one such as "train[:20]".
        image_column, label_column: names of a data set's columns, where they are not the usual ones.
        label_names: the model's class for each of the source's, where their names differ: {"flugzeug": "airplane"}.
        on_error: "skip" reads every image once in advance and leaves out, with a warning, those that cannot be read.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"Expected on_error to be 'raise' or 'skip', found {on_error!r}.")
    if isinstance(source, Images):
        return _reuse(source, model, role, split, (image_column, label_column, label_names))
    if isinstance(source, str) and source in generator_names():
        return open_generated(source, model, processor, role, split)
    if isinstance(source, (str, Path)):
        source = load_rows(str(source), split, role)
    elif _is_dataset_dict(source):
        source = take_split(list(source), source.__getitem__, split, role, "the DatasetDict")
    elif split is not None:
        raise ValueError(f"split='{split}' needs a path, a Hub name or a DatasetDict, found {type(source).__name__}.")
    opened = _Opened(source, model, processor, role, image_column, label_column, label_names).open()
    if len(opened) == 0:
        raise ValueError(f"Expected at least one image, found none in {opened.description}.")
    return _skip_unreadable(opened) if on_error == "skip" else opened


def _reuse(images: Images, model: PreTrainedModel, role: Role, split: str | None, options: tuple) -> Images:
    if split is not None or any(option is not None for option in options):
        raise ValueError("Expected options such as split= where the images are opened, found them for opened Images.")
    if images.num_labels != _count_classes(model):
        raise ValueError(
            f"Expected images that were opened for this model, found some for a model of {images.num_labels} classes "
            f"instead of {_count_classes(model)}. Open them with open_images(source, model, processor)."
        )
    return _for_role(images, role)


def _for_role(images: Images, role: Role) -> Images:
    """Return the images for a role; labels that are not the model's are refused for evaluation alone."""
    mismatch = None if images.labels is None else images.labels.mismatch
    if mismatch is not None and role == "evaluation":
        raise ValueError(mismatch)
    if mismatch is not None:
        logger.warning(f"{mismatch} Until then these images count as unlabelled, which calibration does without.")
    return replace(images, role=role)


@dataclass(frozen=True)
class _Opened:
    """One call of `open_images`."""

    source: Any
    model: PreTrainedModel
    processor: BaseImageProcessor | None
    role: Role
    image_column: str | None
    label_column: str | None
    label_names: Mapping[Any, str | int] | None

    def open(self) -> Images:
        source = self.source
        if isinstance(source, np.ndarray) and source.dtype != np.uint8:
            source = torch.as_tensor(source)
        if isinstance(source, Tensor):
            return self._open_tensor(source)
        if isinstance(source, DataLoader):
            rows, collate, split = drawn_rows(source), row_collator(source), batch_splitter(source)
            return self._open_rows(rows, collate, "the DataLoader", label_feature(source.dataset), split)
        if hasattr(source, "column_names"):
            return self._open_dataset(source)
        if isinstance(source, Mapping) and source:
            return self._open_columns(source)
        if isinstance(source, Dataset) and not isinstance(source, IterableDataset) and hasattr(source, "__len__"):
            feature = label_feature(source)
            return self._open_rows(range(len(source)), source.__getitem__, "the data set", feature)
        if isinstance(source, np.ndarray) and source.ndim == 4:
            return self._open_rows(range(len(source)), source.__getitem__, "the array")
        if isinstance(source, Sequence) and len(source) > 0 and _may_be_image(source[0]):
            self._check_first(source[0])
            return self._open_rows(range(len(source)), source.__getitem__, "the list of images")
        raise ValueError(
            "Expected an image folder's path, a Hub data set's name, a datasets.Dataset, a torch data set, PIL "
            f"images, tensors or a DataLoader, found {_describe_type(source)}. {_way_out(source)}"
        )

    def _open_tensor(self, pixels: Tensor) -> Images:
        if pixels.ndim != 4 or not pixels.is_floating_point():
            raise ValueError(
                f"Expected pixel values as a float tensor (images, channels, height, width), found {pixels.dtype} "
                f"{tuple(pixels.shape)}. Pass PIL images to have them preprocessed."
            )
        check_size(pixels, self.model)
        return self._open_rows(range(len(pixels)), pixels.__getitem__, "the tensor")

    def _open_columns(self, columns: Mapping[str, Any]) -> Images:
        """Open a dict such as {"image": [...], "label": [...]}."""
        images, labels = self._choose_columns([str(name) for name in columns])
        sizes = {name: len(columns[name]) for name in (images, labels) if name is not None}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"Expected as many labels as images, found {sizes}.")
        pictures, classes = columns[images], None if labels is None else columns[labels]

        def read(index: int) -> Any:
            return pictures[index] if classes is None else (pictures[index], classes[index])

        return self._open_rows(range(len(pictures)), read, "the dict of columns")

    def _open_rows(
        self,
        rows: Sequence[int],
        get: Callable[[int], Any],
        what: str,
        feature: Any = None,
        split: Callable[[Any, str], tuple[Any, Any]] | None = None,
    ) -> Images:
        """Open rows that `split` takes apart into image and label."""
        split = split or partial(
            split_sample, image_column=self.image_column, label_column=self.label_column,
            label_columns=label_kind_of(self.model).columns,
        )  # fmt: skip

        def read(index: int) -> tuple[Any, Any]:
            row, name = rows[index], f"row {rows[index]} of {what}"
            image, label = split(_get(get, row, name), name)
            return read_picture(image, str(image) if isinstance(image, (str, Path)) else name), label

        return self._build(len(rows), read, what, feature)

    def _open_dataset(self, rows: "datasets.Dataset") -> Images:
        import datasets

        if isinstance(rows, datasets.IterableDataset):
            raise ValueError(
                "Expected a data set with a length, found a streaming one. Take what you need first, "
                "e.g. datasets.Dataset.from_list(list(stream.take(512)), features=stream.features)."
            )
        features = rows.features
        if rows.format["type"] == "custom":  # with_transform: what comes out is known only when it is read
            feature = label_feature(rows, self.label_column)
            return self._open_rows(range(len(rows)), rows.__getitem__, "the data set", feature)
        image_column, label_column = self._choose_columns(rows.column_names)
        if isinstance(features[image_column], datasets.Image):
            # Decoded here rather than by `datasets`, so that an unreadable file can be named.
            rows = rows.with_format(None).cast_column(image_column, datasets.Image(decode=False))
            require_processor(self.processor)
        elif image_column == "pixel_values":
            rows = rows.with_format("torch")
        elif rows.format["type"] is None:
            rows = rows.with_format("numpy", columns=[image_column], output_all_columns=True)

        def read(index: int) -> tuple[Any, Any]:
            row = _get(rows.__getitem__, index, f"row {index}")
            return read_picture(row[image_column], f"row {index}"), row[label_column] if label_column else None

        return self._build(len(rows), read, "the data set", features[label_column] if label_column else None)

    def _choose_columns(self, names: Sequence[str]) -> tuple[str, str | None]:
        wanted = [self.image_column] if self.image_column is not None else list(IMAGE_COLUMNS)
        image_column = next((name for name in wanted if name in names), None)
        if image_column is None:
            raise ValueError(
                f"Expected image column '{wanted[0]}', found columns {', '.join(names) or 'none'}. {NAME_THE_COLUMN}"
            )
        if self.label_column is not None and self.label_column not in names:
            raise ValueError(f"There is no column '{self.label_column}': the data set has {', '.join(names)}.")
        usual = label_kind_of(self.model).columns
        return image_column, self.label_column or next((name for name in usual if name in names), None)

    def _check_first(self, value: Any) -> None:
        image = value[0] if isinstance(value, tuple) else value
        if isinstance(image, (*PICTURES, np.ndarray)):
            require_processor(self.processor)

    def _build(self, count: int, read: Callable[[int], tuple[Any, Any]], what: str, feature: Any) -> Images:
        kind = label_kind_of(self.model)
        prepare = kind.preparation(self.model, self.processor, what)
        labels = kind.reader(self.model, feature, self.label_names)
        images = Images(count, read, prepare, kind.count_classes(self.model), what, self.role, labels)
        return _for_role(images, self.role)


def _count_classes(model: PreTrainedModel) -> int:
    return label_kind_of(model).count_classes(model)


def _skip_unreadable(images: Images) -> Images:
    """Return the images that can be read, and warn of the others."""
    readable, problems = [], []
    for index in range(len(images)):
        try:
            images.read(index)
            readable.append(index)
        except ValueError as error:
            problems.append(str(error))
    if not readable:
        raise ValueError(f"None of the {len(images)} images in {images.description} can be read. {problems[0]}")
    if problems:
        shown = "\n".join(problems[:10] + ["..."] * (len(problems) > 10))
        logger.warning(f"{len(problems)} of {len(images)} images cannot be read and are left out:\n{shown}")
    return replace(images, count=len(readable), read=lambda index: images.read(readable[index]))


def _get(get: Callable[[int], Any], row: int, name: str) -> Any:
    try:
        return get(row)
    except Exception as error:  # the source is the user's own code, which may raise anything
        raise ValueError(f"Cannot read {name} ({type(error).__name__}: {error}).") from error


def _is_dataset_dict(source: Any) -> bool:
    return (
        isinstance(source, dict) and len(source) > 0 and all(hasattr(rows, "column_names") for rows in source.values())
    )


def _may_be_image(value: Any) -> bool:
    image = value[0] if isinstance(value, tuple) and value else value
    return isinstance(image, (*PICTURES, np.ndarray, Tensor, Mapping))


def _describe_type(source: Any) -> str:
    if isinstance(source, Sequence) and not isinstance(source, (bytes, str)):
        return f"an empty {type(source).__name__}" if len(source) == 0 else f"a sequence of {type(source[0]).__name__}"
    return type(source).__name__


def _way_out(source: Any) -> str:
    if isinstance(source, IterableDataset) or hasattr(source, "__next__"):
        return "Images are drawn by row: make a list of what you need first, e.g. list(itertools.islice(source, 512))."
    return "See open_images for what an image may be."
