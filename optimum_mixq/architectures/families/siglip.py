# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""SigLIP: a CLIP without a class token. Its classifier reads the mean of all patches, its embedding pools them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq.architectures.base import Rule
from optimum_mixq.architectures.families.clip import CLIP
from optimum_mixq.architectures.families.siglip_pooling import pool_with_rules
from optimum_mixq.architectures.registry import register_encoder, register_family


@register_family
class Siglip(CLIP):
    model_type = "siglip"
    classifiers: tuple[str, ...] = ("SiglipForImageClassification",)
    block_class = "SiglipEncoderLayer"

    def left_float(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the layers of the pooling head, which runs without being read (transformers 5.9 to 5.23)."""
        modules = model.named_modules()
        return tuple(name for name, module in modules if ".head." in name and isinstance(module, nn.Linear))


@register_family
class SiglipVision(Siglip):
    """The tower alone, whose pooling head puts out the embedding."""

    model_type = "siglip_vision_model"
    classifiers = ()
    backbones = ("SiglipVisionModel",)
    embedding_words = (
        "`outputs.pooler_output`, what the pooling head puts out, or `outputs.last_hidden_state.mean(1)` without one"
    )
    heads = ("head.mlp",)

    def left_float(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the layer whose weight the pooling head's attention reads (`nn.MultiheadAttention`)."""
        return ("head.attention.out_proj",) if hasattr(model, "head") else ()

    def embedding(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return what the pooling head puts out, or the mean over patches without one."""
        pooled = outputs.get("pooler_output")
        return outputs["last_hidden_state"].mean(1) if pooled is None else pooled

    def rules(self) -> dict[Callable[..., Any], Rule]:
        return {F.multi_head_attention_forward: pool_with_rules}


register_encoder("siglip", "SiglipVisionModel")
