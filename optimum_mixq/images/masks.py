# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Masks: images of class numbers beside the images that they belong to, for models that tell the class of a pixel."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from optimum_mixq.architectures.further import serves
from optimum_mixq.images.label_kinds import LabelKind, register_label_kind
from optimum_mixq.images.labels import Label, LabelReader
from optimum_mixq.images.maps import MapPreparation, open_map
from optimum_mixq.images.preparation import Preparation


IGNORED = 255  # marks pixels that no class is known for, as in transformers' own losses


@register_label_kind
class Masks(LabelKind):
    """A class number for each pixel, (H, W); 255 where there is none."""

    columns = ("annotation", "mask", "segmentation_mask", "label", "labels")

    def handles(self, model: PreTrainedModel) -> bool:
        return serves(model, "image-segmentation")

    def reader(
        self, model: PreTrainedModel, feature: Any = None, label_names: Mapping[Any, str | int] | None = None
    ) -> LabelReader:
        if label_names:
            raise ValueError(
                "Expected no label_names for masks, found some: the pixels of a mask are numbers. Number them as the "
                "model's classes are."
            )
        return LabelReader(read_mask, check=partial(_check_classes, count=int(model.config.num_labels)))

    def preparation(
        self, model: PreTrainedModel, processor: BaseImageProcessor | None, description: str
    ) -> Preparation:
        return MaskPreparation(model, processor, description)


class MaskPreparation(MapPreparation):
    """Has the image processor resize masks with their images."""

    word = "mask"

    def run_with_maps(
        self, processor: BaseImageProcessor, pictures: list[Image.Image], maps: list[Tensor]
    ) -> tuple[Tensor, list[Label | None]]:
        # transformers 5.23 takes maps of uint8 for images of one channel.
        masks = [each.numpy() for each in maps]
        made = processor(images=pictures, segmentation_maps=masks, return_tensors="pt")
        return made["pixel_values"], [torch.as_tensor(mask).long() for mask in made["labels"]]


def read_mask(value: Any) -> Tensor | None:
    """Return the class numbers (H, W) int64 of a mask: a picture of one channel, its file, or an array."""
    value = open_map(value, "mask")
    if value is None:
        return None
    if isinstance(value, Image.Image) and len(value.getbands()) > 1:
        raise ValueError(
            f"a mask of mode {value.mode}, instead of one channel of class numbers. Save it as a PNG of mode L or P"
        )
    numbers = value if isinstance(value, Tensor) else torch.tensor(np.asarray(value))
    if numbers.ndim != 2 or numbers.is_complex() or (numbers.is_floating_point() and bool((numbers % 1 != 0).any())):
        raise ValueError(
            f"a label {numbers.dtype} {tuple(numbers.shape)}, instead of a mask of class numbers (height, width)"
        )
    return numbers.long()


def _check_classes(mask: Label, count: int) -> None:
    assert isinstance(mask, Tensor)
    wrong = mask[(mask != IGNORED) & ((mask < 0) | (mask >= count))]
    if wrong.numel():
        raise ValueError(
            f"class {int(wrong[0])} in its mask, but the model has {count} classes (0..{count - 1}, and {IGNORED} for "
            "none). Number them as the model's are; where 0 is a background that the model does not know, set "
            "do_reduce_labels=True in its image processor"
        )
