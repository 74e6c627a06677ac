# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Labels of object detection: the objects of an image as COCO writes them, and their boxes in parts of its sides."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import logging

from optimum_mixq.architectures.describe import configured_image_size
from optimum_mixq.architectures.further import serves
from optimum_mixq.images.label_kinds import LabelKind, register_label_kind
from optimum_mixq.images.labels import Label, LabelReader, label_reader
from optimum_mixq.images.preparation import Preparation, require_processor, with_image_size


logger = logging.get_logger(__name__)

# What a data set may call the classes of objects, the most usual name first.
CATEGORIES = ("category", "category_id", "label")
# How far a box may reach beyond its image, in pixels: boxes are rounded.
SLACK = 2.0


@register_label_kind
class Objects(LabelKind):
    """A list of objects (objects, 6) float32 for each image: class, center, width, height, and 1 for a crowd.

    A source has boxes in pixels, (x, y, width, height) with the upper left corner; labels of a batch have them in
    parts of the image's sides.
    """

    columns = ("objects", "annotations")

    def handles(self, model: PreTrainedModel) -> bool:
        return serves(model, "object-detection")

    def reader(
        self, model: PreTrainedModel, feature: Any = None, label_names: Mapping[Any, str | int] | None = None
    ) -> LabelReader:
        config = copy.copy(model.config)
        config.problem_type = "single_label_classification"  # of each object, even where there is one class alone
        classes = label_reader(config, _category_feature(feature), label_names)
        return LabelReader(lambda value: _read_objects(value, classes), classes.mismatch)

    def preparation(
        self, model: PreTrainedModel, processor: BaseImageProcessor | None, description: str
    ) -> Preparation:
        if processor is not None and not _has_one_size(processor):
            height, width = configured_image_size(model)
            processor = with_image_size(processor, (height, width))
            logger.warning(
                f"The image processor makes images of many sizes, and batches need one: they are resized to {height} "
                f"x {width} pixels, as the model is configured. Set its `size` for another one."
            )
        return ObjectPreparation(model, processor, description)


@dataclass(frozen=True)
class ObjectPreparation(Preparation):
    """Makes boxes in parts of the image's sides of those in pixels: the whole picture is what a model is shown."""

    def stack(
        self, images: list[Tensor], labels: list[Label | None], indices: Sequence[int]
    ) -> tuple[Tensor, list[Label | None]]:
        sizes = [(image.shape[-1], image.shape[-2]) for image in images]
        return super().stack(images, self._scale(labels, sizes, indices), indices)

    def process(
        self, pictures: list[Image.Image], labels: list[Label | None], indices: Sequence[int]
    ) -> tuple[Tensor, list[Label | None]]:
        if getattr(require_processor(self.processor), "do_center_crop", None):
            raise ValueError(
                "Expected an image processor that keeps the whole picture, since boxes are in parts of its sides, "
                "found one that crops. Set do_center_crop=False."
            )
        scaled = self._scale(labels, [picture.size for picture in pictures], indices)
        return super().process(pictures, scaled, indices)

    def _scale(
        self, labels: list[Label | None], sizes: Sequence[tuple[int, int]], indices: Sequence[int]
    ) -> list[Label | None]:
        """Return the labels of images of (width, height) with boxes as center, width and height in parts of these."""
        scaled: list[Label | None] = []
        for label, (width, height), index in zip(labels, sizes, indices, strict=True):
            if not isinstance(label, Tensor):
                scaled.append(label)
                continue
            corner, sides = label[:, 1:3], label[:, 3:5]
            reach, size = corner + sides, torch.tensor([width, height], dtype=label.dtype)
            outside = ((corner < -SLACK) | (reach > size + SLACK)).any(1)
            if outside.any():
                box = ", ".join(f"{value:g}" for value in label[outside][0, 1:5].tolist())
                raise ValueError(
                    f"Row {index} of {self.description} has a box ({box}) that reaches beyond its image of {width} x "
                    f"{height} pixels. Expected (x, y, width, height) in pixels, as COCO writes boxes: convert those "
                    "that are given by two corners, or in parts of the image."
                )
            rows = [label[:, :1], (corner + sides / 2) / size, sides / size, label[:, 5:]]
            scaled.append(torch.cat(rows, 1))
        return scaled


def _has_one_size(processor: BaseImageProcessor) -> bool:
    """Return whether pictures of any shape come out at one size."""
    size = dict(getattr(processor, "size", None) or {})
    return size.get("height") is not None and size.get("width") is not None


def _category_feature(feature: Any) -> Any:
    """Return what a source knows about the classes of objects, if anything: `objects` is a dict of lists or a list."""
    feature = getattr(feature, "feature", feature)
    known = feature if isinstance(feature, Mapping) else {}
    found = next((known[name] for name in CATEGORIES if name in known), None)
    return getattr(found, "feature", found)


def _read_objects(value: Any, classes: LabelReader) -> Tensor | None:
    """Return the objects (objects, 6) of one image, boxes as they stand; None for an image without annotations."""
    if value is None:
        return None
    rows = []
    for box, category, crowd in _list_objects(value):
        number = classes.read(category)
        if number is None:
            raise ValueError("an object without a class")
        box = [float(side) for side in (box.tolist() if hasattr(box, "tolist") else box)]
        if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) < 0:
            raise ValueError(f"a box {box}, which is not (x, y, width, height)")
        if min(box[2:]) > 0:  # nobody can find what has no area
            rows.append([float(number), *box, float(crowd)])
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)


def _list_objects(value: Any) -> list[tuple[Any, Any, bool]]:
    """Return box, class and whether it is a crowd, of each object in a dict of lists or in a list of dicts."""
    if isinstance(value, Mapping):
        names = list(value)
        columns = [value[name] for name in _find_names(names)]
        if len(columns[0]) != len(columns[1]):
            raise ValueError(f"{len(columns[0])} boxes and {len(columns[1])} classes of objects")
        crowds = value.get("iscrowd")
        return list(zip(*columns, [False] * len(columns[0]) if crowds is None else map(bool, crowds), strict=True))
    if not isinstance(value, (list, tuple)) or not all(isinstance(row, Mapping) for row in value):
        raise ValueError(f"objects {value!r:.60}, which are no list of dicts and no dict of lists")
    return [(*(row[name] for name in _find_names(list(row))), bool(row.get("iscrowd", False))) for row in value]


def _find_names(names: Sequence[str]) -> tuple[str, str]:
    """Return what boxes and classes are called."""
    category = next((name for name in CATEGORIES if name in names), None)
    if "bbox" not in names or category is None:
        raise ValueError(f"objects with {', '.join(map(str, names)) or 'nothing'}, and not with 'bbox' and 'category'")
    return "bbox", category
