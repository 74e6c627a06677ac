# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Swin V2: LayerNorm after each branch, and scores that are cosines, with a bias from a small MLP on positions."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from optimum_mixq.architectures.base import Block, Family, Rule, Unit
from optimum_mixq.architectures.families.encoder import NESTED_NAMES, transformer_block
from optimum_mixq.architectures.families.swin import Swin
from optimum_mixq.architectures.registry import register_family
from optimum_mixq.architectures.rules import passing


NAMES = replace(
    NESTED_NAMES,
    attention="attention.self",
    qkv=("attention.self.query", "attention.self.key", "attention.self.value"),
    norms=(),  # no LayerNorm is read by linear layers alone
    plain_scores=False,  # they are cosines
)


@register_family
class Swinv2(Swin):
    model_type = "swinv2"
    classifiers = ("Swinv2ForImageClassification",)
    backbones = ("Swinv2Model",)
    block_class = "Swinv2Layer"
    merging_class = "Swinv2PatchMerging"

    def left_float(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the layers that compute biases: what they read are positions, which no image changes."""
        modules = model.named_modules()
        return tuple(name for name, module in modules if "position_bias_mlp" in name and isinstance(module, nn.Linear))

    def require_image_size(self, model: PreTrainedModel, size: tuple[int, int]) -> None:
        Family.require_image_size(self, model, size)  # smaller maps are padded to a window here

    def block(self, model: PreTrainedModel, module: str, name: str) -> Block:
        return transformer_block(model, module, name, NAMES)

    def merging(self, module: str, name: str) -> Block:
        unit = Unit(f"{name}.reduction", "reduction", (f"{module}.reduction",))
        return Block(f"{name}.merging", module, (unit,))

    def rules(self) -> dict[Callable[..., Any], Rule]:
        return {F.normalize: passing(F.normalize)}

    def adapted_attention(self) -> dict[type[nn.Module], type[nn.Module]]:
        from transformers.models.swinv2.modeling_swinv2 import Swinv2SelfAttention

        from optimum_mixq.architectures.families.swinv2_attention import RoutedSwinv2SelfAttention

        return {Swinv2SelfAttention: RoutedSwinv2SelfAttention}
