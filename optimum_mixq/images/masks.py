# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Masks: images of class numbers beside the images that they belong to, for models that tell the class of a pixel."""

import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
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


class MaskPreparation(Preparation):
    """Has the image processor resize masks with their images."""

    def __call__(
        self, images: list[Any], labels: list[Label | None], indices: Sequence[int]
    ) -> tuple[Tensor, list[Label | None]]:
        pixels, masks = super().__call__(images, labels, indices)
        for mask, index in zip(masks, indices, strict=True):
            if isinstance(mask, Tensor) and mask.shape != pixels.shape[-2:]:
                raise ValueError(
                    f"Expected a mask of the size of its image, {pixels.shape[-2]} x {pixels.shape[-1]}, found "
                    f"{' x '.join(map(str, mask.shape))} in row {index} of {self.description}."
                )
        return pixels, masks

    def run(
        self, processor: BaseImageProcessor, pictures: list[Image.Image], labels: list[Label | None]
    ) -> tuple[Tensor, list[Label | None]]:
        if any(label is None for label in labels):
            return super().run(processor, pictures, [None] * len(pictures))
        masks = [np.asarray(mask) for mask in labels]
        for picture, mask in zip(pictures, masks, strict=True):
            if mask.shape != (picture.height, picture.width):
                raise ValueError(
                    f"its mask is {' x '.join(map(str, mask.shape))} and the image {picture.height} x {picture.width}"
                )
        # transformers 5.23 takes maps of uint8 for images of one channel.
        made = processor(images=pictures, segmentation_maps=masks, return_tensors="pt")
        return made["pixel_values"], [torch.as_tensor(mask).long() for mask in made["labels"]]


def read_mask(value: Any) -> Tensor | None:
    """Return the class numbers (H, W) int64 of a mask: a picture of one channel, its file, or an array."""
    if isinstance(value, Mapping) and {"bytes", "path"} & set(value):
        value = value["path"] if value.get("bytes") is None else value["bytes"]
    if value is None:
        return None
    if isinstance(value, (str, Path, bytes)):
        value = _open(value)
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


def _open(file: str | Path | bytes) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
        picture.load()
        return picture
    except Exception as error:  # decoders raise whatever a broken file leads them to
        raise ValueError(f"a mask that cannot be read ({error})") from error


def _check_classes(mask: Label, count: int) -> None:
    assert isinstance(mask, Tensor)
    wrong = mask[(mask != IGNORED) & ((mask < 0) | (mask >= count))]
    if wrong.numel():
        raise ValueError(
            f"class {int(wrong[0])} in its mask, but the model has {count} classes (0..{count - 1}, and {IGNORED} for "
            "none). Number them as the model's are; where 0 is a background that the model does not know, set "
            "do_reduce_labels=True in its image processor"
        )
