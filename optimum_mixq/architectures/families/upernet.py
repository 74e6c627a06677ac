# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""UPerNet: a decode head of convolutions that reads all stages of a Swin."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from transformers import PreTrainedModel

from optimum_mixq.architectures.base import Architecture, Rule, layers_under
from optimum_mixq.architectures.convolution_rules import DECODER_RULES
from optimum_mixq.architectures.families.swin import Swin
from optimum_mixq.architectures.registry import register_family


# What reads the maps of the stages; the second one is for training.
DECODERS = ("decode_head.", "auxiliary_head.")


@register_family
class UperNet(Swin):
    model_type = "upernet"
    classifiers = ()
    backbones = ()
    further: Mapping[str, tuple[str, ...]] = {"image-segmentation": ("UperNetForSemanticSegmentation",)}

    def describe(self, model: PreTrainedModel) -> Architecture:
        stages = self.encoder_config(model).out_features
        architecture = super().describe(model)
        # The last block of each stage: its merging may read it, too. transformers counts stages from one.
        last = {block.name.split(".")[1]: block.name for block in architecture.blocks if ".blocks." in block.name}
        return replace(architecture, taps=tuple(last[str(int(stage.removeprefix("stage")) - 1)] for stage in stages))

    def left_float(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the layers of the decode heads."""
        return layers_under(model, DECODERS)

    def encoder_config(self, model: PreTrainedModel) -> Any:
        """Return the configuration of the Swin; a ValueError says that another model is inside."""
        config = getattr(model.get_submodule("backbone"), "config", None)
        found = getattr(config, "model_type", type(model.get_submodule("backbone")).__name__)
        if found != Swin.model_type:
            raise ValueError(
                f"Expected an UPerNet with a Swin inside, found one with a '{found}'. Other backbones are not "
                "supported: load a checkpoint whose backbone_config is that of a Swin."
            )
        return config

    def rules(self) -> Mapping[Callable[..., Any], Rule]:
        return DECODER_RULES
