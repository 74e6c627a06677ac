# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""SigLIP: a CLIP without a class token. Its classifier reads the mean of all patches."""

from torch import nn
from transformers import PreTrainedModel

from optimum_mixq.architectures.families.clip import CLIP
from optimum_mixq.architectures.registry import register_family


@register_family
class Siglip(CLIP):
    model_type = "siglip"
    classifiers = ("SiglipForImageClassification",)
    block_class = "SiglipEncoderLayer"

    def left_float(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the layers of the pooling head, which runs without being read (transformers 5.9 to 5.23)."""
        modules = model.named_modules()
        return tuple(name for name, module in modules if ".head." in name and isinstance(module, nn.Linear))
