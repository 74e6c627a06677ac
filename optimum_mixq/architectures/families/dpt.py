# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""DPT: a ViT whose hidden states after several blocks are made maps, fused by convolutions, and read as depth."""

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from optimum_mixq.architectures.base import Architecture, Rule
from optimum_mixq.architectures.convolution_rules import convolution, resizing, transposed_convolution
from optimum_mixq.architectures.families.encoder import Encoder, Names
from optimum_mixq.architectures.registry import register_family
from optimum_mixq.architectures.rules import passing


# What makes maps of hidden states, and what makes depth of these.
DECODER = ("neck.", "head.")


class DepthEncoder(Encoder):
    """A family whose depth estimators have a neck and a head of convolutions, which stay float."""

    classifiers = ()
    heads = ("pooler",)

    def left_float(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the layers of the neck and of the head."""
        layers = (name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d)))
        return tuple(name for name in layers if name.startswith(DECODER))

    def rules(self) -> Mapping[Callable[..., Any], Rule]:
        return {
            F.conv2d: convolution,
            F.conv_transpose2d: transposed_convolution,
            F.interpolate: resizing,
            F.batch_norm: passing(F.batch_norm),
        }

    def takes_any_size(self, model: PreTrainedModel) -> bool:
        return True  # each forward interpolates the position embeddings


@register_family
class DPT(DepthEncoder):
    model_type = "dpt"
    backbones = ("DPTModel",)
    further: Mapping[str, tuple[str, ...]] = {"depth-estimation": ("DPTForDepthEstimation",)}
    optional = ("pooler",)
    block_class = "DPTViTLayer"
    names = Names(
        attention="attention.attention",
        qkv=("attention.attention.query", "attention.attention.key", "attention.attention.value"),
        proj="attention.output.dense",
        fc1=("intermediate.dense",),
        fc2="output.dense",
        activation="intermediate.intermediate_act_fn",
        head_size="attention_head_size",
    )

    def describe(self, model: PreTrainedModel) -> Architecture:
        config = model.config
        if config.is_hybrid or config.backbone_config is not None:
            kind = "convolutions before its blocks" if config.is_hybrid else "another model for its blocks"
            raise ValueError(
                f"Expected a DPT with a plain ViT, found one with {kind} (is_hybrid={config.is_hybrid}, backbone "
                f"{getattr(config.backbone_config, 'model_type', None)}). Choose a model such as Intel/dpt-large."
            )
        return super().describe(model)

    def taps(self, model: PreTrainedModel) -> tuple[str, ...]:
        if not hasattr(model, "neck"):
            return ()
        return tuple(f"blocks.{number}" for number in model.config.backbone_out_indices)

    def require_image_size(self, model: PreTrainedModel, size: tuple[int, int]) -> None:
        super().require_image_size(model, size)
        patch = model.config.patch_size
        if hasattr(model, "neck") and size[0] // patch != size[1] // patch:
            # transformers 5.23 takes the root of the number of patches for the sides of the maps.
            raise ValueError(
                f"Expected square images, since a {type(model).__name__} makes square maps of its patches, found "
                f"{size[0]} x {size[1]} pixels. Set the image processor's `size`, and keep_aspect_ratio=False."
            )
