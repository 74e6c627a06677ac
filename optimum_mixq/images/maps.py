# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Labels with a number for each pixel: how they are opened, and how they follow their images."""

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor
from transformers.image_processing_utils import BaseImageProcessor

from optimum_mixq.images.labels import Label
from optimum_mixq.images.preparation import Preparation


class MapPreparation(Preparation, ABC):
    """Has maps (H, W) come out at the size of the pixel values, whose pictures they have the size of.

    Where one image of a batch has none, none of the batch has.
    """

    word: ClassVar[str]  # what people call such a map

    def __call__(
        self, images: list[Any], labels: list[Label | None], indices: Sequence[int]
    ) -> tuple[Tensor, list[Label | None]]:
        pixels, maps = super().__call__(images, labels, indices)
        for each, index in zip(maps, indices, strict=True):
            if isinstance(each, Tensor) and each.shape != pixels.shape[-2:]:
                raise ValueError(
                    f"Expected a {self.word} of the size of its image, {pixels.shape[-2]} x {pixels.shape[-1]}, found "
                    f"{' x '.join(map(str, each.shape))} in row {index} of {self.description}."
                )
        return pixels, maps

    def run(
        self, processor: BaseImageProcessor, pictures: list[Image.Image], labels: list[Label | None]
    ) -> tuple[Tensor, list[Label | None]]:
        if any(label is None for label in labels):
            return super().run(processor, pictures, [None] * len(pictures))
        maps = [torch.as_tensor(label) for label in labels]
        for picture, each in zip(pictures, maps, strict=True):
            if each.shape != (picture.height, picture.width):
                raise ValueError(
                    f"its {self.word} is {' x '.join(map(str, each.shape))} and the image {picture.height} x "
                    f"{picture.width}: resize it to its image, each pixel the nearest one"
                )
        return self.run_with_maps(processor, pictures, maps)

    @abstractmethod
    def run_with_maps(
        self, processor: BaseImageProcessor, pictures: list[Image.Image], maps: list[Tensor]
    ) -> tuple[Tensor, list[Label | None]]:
        """Call the image processor, and have maps of the pictures' sizes follow."""


def open_map(value: Any, word: str) -> Any:
    """Return the picture that a file, its content, or what `datasets` stores of it holds; anything else as it is."""
    if isinstance(value, Mapping) and {"bytes", "path"} & set(value):
        value = value["path"] if value.get("bytes") is None else value["bytes"]
    return _open(value, word) if isinstance(value, (str, Path, bytes)) else value


def _open(file: str | Path | bytes, word: str) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
        picture.load()
        return picture
    except Exception as error:  # decoders raise whatever a broken file leads them to
        raise ValueError(f"a {word} that cannot be read ({error})") from error
