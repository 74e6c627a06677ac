# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Depth maps: how far away each pixel of an image is, for models that estimate depth."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from optimum_mixq.architectures.further import serves
from optimum_mixq.images.label_kinds import LabelKind, register_label_kind
from optimum_mixq.images.labels import Label, LabelReader
from optimum_mixq.images.maps import MapPreparation, open_map
from optimum_mixq.images.preparation import Preparation, require_processor


UNMEASURED = 0.0  # marks pixels whose depth is not known
# Pillow's modes of one channel of numbers; the others are colours, a palette or bits.
MODES = ("L", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")


@register_label_kind
class Depths(LabelKind):
    """The distance of each pixel, (H, W) float32, in any unit; 0 where it was not measured."""

    columns = ("depth_map", "depth", "depth_image")  # a "label" is a class, which images of other data sets have

    def handles(self, model: PreTrainedModel) -> bool:
        return serves(model, "depth-estimation")

    def reader(
        self, model: PreTrainedModel, feature: Any = None, label_names: Mapping[Any, str | int] | None = None
    ) -> LabelReader:
        if label_names:
            raise ValueError(
                "Expected no label_names for depth maps, found some: the pixels of a depth map are distances. Leave "
                "label_names out."
            )
        return LabelReader(read_depths, check=_require_measured)

    def preparation(
        self, model: PreTrainedModel, processor: BaseImageProcessor | None, description: str
    ) -> Preparation:
        return DepthPreparation(model, processor, description)

    def count_classes(self, model: PreTrainedModel) -> int:
        return 0


class DepthPreparation(MapPreparation):
    """Resizes depth maps to the pixel values, each pixel the nearest one: means would lie between near and far."""

    word = "depth map"

    def process(
        self, pictures: list[Image.Image], labels: list[Label | None], indices: Sequence[int]
    ) -> tuple[Tensor, list[Label | None]]:
        processor = require_processor(self.processor)
        found = [name for name in ("do_center_crop", "do_pad") if getattr(processor, name, None)]
        if found and any(label is not None for label in labels):
            raise ValueError(
                "Expected an image processor that keeps the whole picture and adds nothing, since depth maps are "
                f"resized as a whole, found one with {found[0]}=True. Set {found[0]}=False."
            )
        return super().process(pictures, labels, indices)

    def run_with_maps(
        self, processor: BaseImageProcessor, pictures: list[Image.Image], maps: list[Tensor]
    ) -> tuple[Tensor, list[Label | None]]:
        pixels, _ = Preparation.run(self, processor, pictures, [None] * len(pictures))
        size = pixels.shape[-2:]
        return pixels, [F.interpolate(each[None, None], size, mode="nearest-exact")[0, 0] for each in maps]


def read_depths(value: Any) -> Tensor | None:
    """Return the distances (H, W) float32 of a depth map: a picture of one channel, its file, or an array.

    What is negative, infinite or no number was not measured.
    """
    value = open_map(value, "depth map")
    if value is None:
        return None
    if isinstance(value, Image.Image) and value.mode not in MODES:
        raise ValueError(
            f"a depth map of mode {value.mode}, instead of one channel of distances. Save it as a PNG of 16 bits, or "
            "as a TIFF of mode F"
        )
    if isinstance(value, Tensor) and value.is_floating_point():
        value = value.detach().double()  # numpy has no bfloat16
    try:
        numbers = np.asarray(value)
    except ValueError as error:  # rows of different length
        raise ValueError(f"a label {value!r:.60}, instead of a depth map (height, width)") from error
    shape = numbers.shape
    if numbers.ndim == 3 and 1 in (shape[0], shape[2]):  # `datasets` and torchvision put channels first
        numbers = numbers[0] if shape[0] == 1 else numbers[:, :, 0]
    if numbers.ndim != 2 or numbers.dtype.kind not in "iuf":
        raise ValueError(f"a label {numbers.dtype} {tuple(shape)}, instead of a depth map (height, width)")
    depths = torch.from_numpy(numbers.astype(np.float64)).float()
    return torch.where(depths.isfinite() & (depths > 0), depths, UNMEASURED)


def _require_measured(depths: Label) -> None:
    assert isinstance(depths, Tensor)
    if not (depths > 0).any():
        raise ValueError(
            "no distance in its depth map: all pixels are 0, negative, infinite or no numbers (NaN), which is where "
            "nothing was measured. Leave that image out"
        )
