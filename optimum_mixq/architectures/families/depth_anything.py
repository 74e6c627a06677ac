# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Depth Anything: the neck and a head as of a DPT on a DINOv2, whose configuration is a part of the model's."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from optimum_mixq.architectures.base import Architecture
from optimum_mixq.architectures.families.dinov2 import GATED, PLAIN
from optimum_mixq.architectures.families.dpt import DepthEncoder
from optimum_mixq.architectures.families.encoder import Names
from optimum_mixq.architectures.registry import register_family


@register_family
class DepthAnything(DepthEncoder):
    model_type = "depth_anything"
    further: Mapping[str, tuple[str, ...]] = {"depth-estimation": ("DepthAnythingForDepthEstimation",)}
    block_class = "Dinov2Layer"

    def describe(self, model: PreTrainedModel) -> Architecture:
        kind = model.config.backbone_config.model_type
        if kind != "dinov2":
            raise ValueError(
                f"Expected a Depth Anything on a DINOv2, found one on '{kind}'. Choose a model such as "
                "depth-anything/Depth-Anything-V2-Small-hf."
            )
        return super().describe(model)

    def names_in(self, model: PreTrainedModel) -> Names:
        return GATED if model.config.backbone_config.use_swiglu_ffn else PLAIN

    def taps(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the blocks that the neck reads: stage n of the backbone is what block n - 1 puts out."""
        stages = model.backbone.stage_names
        return tuple(f"blocks.{stages.index(name) - 1}" for name in model.backbone.out_features)

    def tells_metres(self, model: PreTrainedModel) -> bool:
        return model.config.depth_estimation_type == "metric"

    def encoder_config(self, model: PreTrainedModel) -> Any:
        return model.config.backbone_config
