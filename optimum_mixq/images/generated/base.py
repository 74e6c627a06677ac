# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What a generator of images answers, and images that are made when they are first asked for."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from optimum_mixq.architectures.backbones import is_backbone
from optimum_mixq.architectures.describe import configured_channels, configured_image_size
from optimum_mixq.images.batches import Images, Role
from optimum_mixq.images.labels import Label


# As many as calibration and the choice of bits may ask for; only those that are drawn are made.
LARGEST_COUNT = 4096


@dataclass(frozen=True)
class PixelScale:
    """How a processor turns a pixel in 0..1 into what the model takes: less the mean, divided by the deviation."""

    mean: Tensor  # (C, 1, 1)
    deviation: Tensor  # (C, 1, 1)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Return pixels (..., C, H, W), cut to 0..1, as the model takes them."""
        return (pixels.clamp(0, 1) - self.mean) / self.deviation


class ImageGenerator(ABC):
    """Makes images for a model. What it draws comes from the generator that it is given, image by image."""

    name: ClassVar[str]

    @abstractmethod
    def make(self, model: PreTrainedModel, scale: PixelScale, generators: Sequence[torch.Generator]) -> Tensor:
        """Return images (B, C, H, W) as the model takes them, one for each random generator."""


GENERATORS: dict[str, type[ImageGenerator]] = {}

Kind = TypeVar("Kind", bound=type[ImageGenerator])


def register_generator(generator: Kind) -> Kind:
    """Add a generator under its name, which `dataset` then takes; the one registered last is used."""
    GENERATORS[generator.name] = generator
    return generator


def generator_names() -> tuple[str, ...]:
    """Return the names of data sets that are generated."""
    return tuple(sorted(GENERATORS))


def open_generated(
    name: str, model: PreTrainedModel, processor: BaseImageProcessor | None, role: Role, split: str | None = None
) -> Images:
    """Return the images of a generator. Row n is the same in whatever batch it is made."""
    if split is not None:
        raise ValueError(f"Expected no split='{split}' of generated images: '{name}' has no splits. Leave out split.")
    if role == "evaluation":
        raise ValueError(
            f"Expected images with labels to evaluate on, found dataset='{name}': generated images show nothing that "
            "a model could be right about. Evaluate on a folder or a data set."
        )
    made = _Made(GENERATORS[name](), model, pixel_scale(model, processor))
    classes = 0 if is_backbone(model) else int(model.config.num_labels)
    return Images(LARGEST_COUNT, lambda row: (row, None), made, classes, f"the generated images '{name}'", role)


def pixel_scale(model: PreTrainedModel, processor: BaseImageProcessor | None) -> PixelScale:
    """Return what the processor normalizes with; without one, what most processors do."""
    channels = configured_channels(model)
    values = []
    for name in ("image_mean", "image_std"):
        found: Any = getattr(processor, name, None) or [0.5] * channels
        values.append(torch.tensor(found, dtype=torch.float32).reshape(-1, 1, 1).expand(channels, 1, 1))
    return PixelScale(*values)


def draw_natural(model: PreTrainedModel, generator: torch.Generator) -> Tensor:
    """Return pixels (C, H, W) around 1/2 with the amplitude spectrum of photographs, 1 / frequency.

    Channels are mostly alike, as in photographs. The spectrum is that of Field (1987).
    """
    channels, (height, width) = configured_channels(model), configured_image_size(model)
    white = torch.randn(1 + channels, height, width, generator=generator)
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    frequency = (rows.square() + columns.square()).sqrt()
    frequency[0, 0] = 1 / max(height, width)  # the mean of the image varies as its slowest wave
    noise = torch.fft.irfft2(torch.fft.rfft2(white) / frequency, s=(height, width))
    noise = noise / noise.square().mean((-2, -1), keepdim=True).sqrt()
    shared, own = noise[:1], noise[1:]
    return 0.5 + 0.25 * (0.9 * shared + 0.44 * own)  # 0.9^2 + 0.44^2 = 1: a deviation of 1/4


class _Made:
    """Prepares rows by making them, in place of decoding; what was made is kept."""

    def __init__(self, generator: ImageGenerator, model: PreTrainedModel, scale: PixelScale) -> None:
        self.generator, self.model, self.scale = generator, model, scale
        self.kept: dict[int, Tensor] = {}

    def __call__(
        self, images: list[Any], labels: list[Label | None], indices: Sequence[int]
    ) -> tuple[Tensor, list[Label | None]]:
        missing = [row for row in dict.fromkeys(indices) if row not in self.kept]
        if missing:
            generators = [torch.Generator().manual_seed(row) for row in missing]
            made = self.generator.make(self.model, self.scale, generators)
            self.kept.update(zip(missing, made, strict=True))
        return torch.stack([self.kept[row] for row in indices]), labels
