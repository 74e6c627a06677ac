# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""From pictures to the pixel values that a model takes, by its own image processor, with checks of what comes out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from optimum_mixq.architectures.describe import configured_channels, require_image_size
from optimum_mixq.images.labels import Label


# transformers 5 reads an image processor from either.
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def load_processor(model: str | Path, where: dict[str, Any]) -> BaseImageProcessor | None:
    """Return the image processor that was saved with a model, or None for a folder without one.

    Pixel values need none; pictures are refused with what to pass. `where` holds options of `from_pretrained`.
    """
    folder = Path(model)
    if folder.is_dir() and not any((folder / name).exists() for name in _PROCESSOR_FILES):
        return None
    return AutoImageProcessor.from_pretrained(model, **where)


@dataclass(frozen=True)
class Preparation:
    """Makes pixel values (B, C, H, W) of RGB pictures; stacks tensors (C, H, W), which are pixel values already.

    Labels stay what they are: a kind of labels that change with their image derives from this class.
    """

    model: PreTrainedModel
    processor: BaseImageProcessor | None
    description: str  # of the source, for error messages

    def __call__(
        self, images: list[Any], labels: list[Label | None], indices: Sequence[int]
    ) -> tuple[Tensor, list[Label | None]]:
        ready = [isinstance(image, Tensor) for image in images]
        if any(ready) and not all(ready):
            raise ValueError(
                f"Expected pictures only or tensors only in {self.description}, found both: "
                f"row {indices[ready.index(True)]} is a tensor, row {indices[ready.index(False)]} is a picture."
            )
        make = self.stack if all(ready) else self.process
        pixels, labels = make(images, labels, indices)
        check_size(pixels, self.model)
        finite = torch.isfinite(pixels).flatten(1).all(1)
        if not finite.all():
            row = indices[int((~finite).nonzero()[0])]
            raise ValueError(f"Row {row} of {self.description} has pixels that are infinite or no numbers (NaN).")
        return pixels.float(), labels

    def stack(
        self, images: list[Tensor], labels: list[Label | None], indices: Sequence[int]
    ) -> tuple[Tensor, list[Label | None]]:
        """Return pixel values of one size as a batch, and their labels."""
        for image, index in zip(images, indices, strict=True):
            if image.shape != images[0].shape:
                raise ValueError(
                    f"Expected images of one size in {self.description}, found {tuple(images[0].shape)} in row "
                    f"{indices[0]} and {tuple(image.shape)} in row {index}."
                )
        return torch.stack(images), labels

    def process(
        self, pictures: list[Image.Image], labels: list[Label | None], indices: Sequence[int]
    ) -> tuple[Tensor, list[Label | None]]:
        """Return what the image processor makes of pictures, and their labels."""
        processor = require_processor(self.processor)
        try:
            return self.run(processor, pictures, labels)
        except Exception as error:  # processors raise what numpy, Pillow or torch raise inside of them
            if len(pictures) > 1:
                for picture, label, index in zip(pictures, labels, indices, strict=True):
                    self.process([picture], [label], [index])  # raises for the picture that is refused
            where = f"row {indices[0]}" if len(indices) == 1 else f"rows {indices[0]}..{indices[-1]}"
            raise ValueError(f"The image processor refuses {where} of {self.description}: {error}") from error

    def run(
        self, processor: BaseImageProcessor, pictures: list[Image.Image], labels: list[Label | None]
    ) -> tuple[Tensor, list[Label | None]]:
        """Call the image processor."""
        return processor(images=pictures, return_tensors="pt")["pixel_values"], labels


def require_processor(processor: BaseImageProcessor | None) -> BaseImageProcessor:
    if processor is None:
        raise ValueError(
            "Images need the model's image processor, and there is none beside the model. "
            "Pass processor=AutoImageProcessor.from_pretrained(...), or pixel values as a tensor."
        )
    return processor


def with_image_size(processor: BaseImageProcessor, size: tuple[int, int]) -> BaseImageProcessor:
    """Return an image processor like this one that makes images of this (height, width)."""
    options = processor.to_dict()
    height, width = size
    sides = {key: side for key, side in (options.get("size") or {}).items() if side is not None}
    crop = options.get("crop_size") if options.get("do_center_crop") else None
    if "shortest_edge" in sides and crop:
        share = sides["shortest_edge"] / min(crop["height"], crop["width"])
        options["size"] = {"shortest_edge": round(share * min(size))}
    elif crop and {"height", "width"} <= sides.keys():
        shares = sides["height"] / crop["height"], sides["width"] / crop["width"]
        options["size"] = {"height": round(shares[0] * height), "width": round(shares[1] * width)}
    else:
        options["size"] = {"height": height, "width": width}
    if crop:
        options["crop_size"] = {"height": height, "width": width}
    resized = type(processor).from_dict(options)
    made = resized(images=[Image.new("RGB", (width + 7, height + 3))], return_tensors="pt")["pixel_values"]
    if tuple(made.shape[-2:]) != size:
        raise ValueError(
            f"Expected the image processor to make images of {height} x {width} pixels, found {made.shape[-2]} x "
            f"{made.shape[-1]}. Set its `size` and `crop_size`, and export without an image size."
        )
    return resized


def check_size(pixels: Tensor, model: PreTrainedModel) -> None:
    """Raise a ValueError if the model does not take pixel values (B, C, H, W) of this size."""
    channels = configured_channels(model)
    if pixels.shape[1] != channels:
        raise ValueError(f"Expected images with {channels} channels, found {pixels.shape[1]}.")
    require_image_size(model, (pixels.shape[-2], pixels.shape[-1]))
