# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""DPT: a ViT whose hidden states after several blocks are made maps, fused by convolutions, and read as depth."""

from collections.abc import Callable, Mapping
from typing import Any

from transformers import PreTrainedModel

from optimum_mixq.architectures.base import Architecture, Rule, layers_under
from optimum_mixq.architectures.convolution_rules import DECODER_RULES
from optimum_mixq.architectures.families.encoder import NESTED_NAMES, Encoder
from optimum_mixq.architectures.registry import register_family


# What makes maps of hidden states, and what makes depth of these.
DECODER = ("neck.", "head.")


class DepthEncoder(Encoder):
    """A family whose depth estimators have a neck and a head of convolutions, which stay float."""

    classifiers = ()
    heads = ("pooler",)

    def left_float(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the layers of the neck and of the head."""
        return layers_under(model, DECODER)

    def rules(self) -> Mapping[Callable[..., Any], Rule]:
        return DECODER_RULES

    def takes_any_size(self, model: PreTrainedModel) -> bool:
        return True  # each forward interpolates the position embeddings


@register_family
class DPT(DepthEncoder):
    model_type = "dpt"
    backbones = ("DPTModel",)
    further: Mapping[str, tuple[str, ...]] = {"depth-estimation": ("DPTForDepthEstimation",)}
    optional = ("pooler",)
    block_class = "DPTViTLayer"
    names = NESTED_NAMES

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
