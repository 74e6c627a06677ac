# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Noise with the statistics of photographs: images at no cost."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.images.generated.base import ImageGenerator, PixelScale, draw_natural, register_generator


@register_generator
class Noise(ImageGenerator):
    """Noise whose amplitude falls with frequency as in photographs, as the model's processor scales pixels."""

    name = "noise"

    def make(self, model: PreTrainedModel, scale: PixelScale, generators: Sequence[torch.Generator]) -> Tensor:
        return torch.stack([scale.normalize(draw_natural(model, generator)) for generator in generators])
