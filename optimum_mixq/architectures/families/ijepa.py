# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""I-JEPA: a ViT without a class token, whose head reads the mean of all patches."""

from collections.abc import Mapping

from torch import Tensor

from optimum_mixq.architectures.families.vit import ViT
from optimum_mixq.architectures.registry import register_family


@register_family
class IJepa(ViT):
    model_type = "ijepa"
    classifiers = ("IJepaForImageClassification",)
    backbones = ("IJepaModel",)
    embedding_words = "`outputs.last_hidden_state.mean(1)`, the mean over patches after the last LayerNorm"
    block_class = "IJepaLayer"

    def embedding(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return the mean over patches after the last LayerNorm."""
        return outputs["last_hidden_state"].mean(1)
