# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""UPerNet: a decode head of convolutions that reads all stages of a Swin."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from optimum_mixq.architectures.base import Architecture, Block, Family, Rule
from optimum_mixq.architectures.convolution_rules import convolution, pooling, resizing
from optimum_mixq.architectures.families.swin import Swin
from optimum_mixq.architectures.registry import register_family
from optimum_mixq.architectures.rules import passing


BACKBONE = "backbone"
SWIN = Swin()


@register_family
class UperNet(Family):
    model_type = "upernet"
    classifiers: tuple[str, ...] = ()
    further: Mapping[str, tuple[str, ...]] = {"image-segmentation": ("UperNetForSemanticSegmentation",)}

    def describe(self, model: PreTrainedModel) -> Architecture:
        inner = SWIN.describe(_backbone(model))
        blocks = tuple(_inside(block) for block in inner.blocks)
        # The last block of each stage: its merging may read it, too. transformers counts stages from one.
        last = {block.name.split(".")[1]: block.name for block in blocks if ".blocks." in block.name}
        read = [last[str(int(stage.removeprefix("stage")) - 1)] for stage in _backbone(model).out_features]
        return Architecture(
            self.model_type,
            f"{BACKBONE}.{inner.stem}",
            (),
            blocks,
            f"{BACKBONE}.{inner.chain}",
            tuple(
                name
                for name, module in model.named_modules()
                if isinstance(module, (nn.Linear, nn.Conv2d)) and not name.startswith(f"{BACKBONE}.")
            ),
            tuple(read),
        )

    def rules(self) -> Mapping[Callable[..., Any], Rule]:
        return {
            F.conv2d: convolution,
            F.interpolate: resizing,
            F.adaptive_avg_pool2d: pooling,
            F.batch_norm: passing(F.batch_norm),
        }

    def channels(self, model: PreTrainedModel) -> int:
        return SWIN.channels(_backbone(model))

    def image_size(self, model: PreTrainedModel) -> tuple[int, int]:
        return SWIN.image_size(_backbone(model))

    def takes_any_size(self, model: PreTrainedModel) -> bool:
        return SWIN.takes_any_size(_backbone(model))

    def require_image_size(self, model: PreTrainedModel, size: tuple[int, int]) -> None:
        SWIN.require_image_size(_backbone(model), size)

    def take_image_size(self, model: PreTrainedModel, size: tuple[int, int]) -> None:
        SWIN.take_image_size(_backbone(model), size)


def _backbone(model: PreTrainedModel) -> PreTrainedModel:
    backbone = model.get_submodule(BACKBONE)
    found = getattr(getattr(backbone, "config", None), "model_type", type(backbone).__name__)
    if not isinstance(backbone, PreTrainedModel) or found != SWIN.model_type:
        raise ValueError(
            f"Expected an UPerNet with a Swin inside, found one with a '{found}'. Other backbones are not supported: "
            "load a checkpoint whose backbone_config is that of a Swin."
        )
    return backbone


def _inside(block: Block) -> Block:
    """Return a backbone's block by the names that modules have in the whole model."""

    def full(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"{BACKBONE}.{name}" for name in names)

    attention = None if block.attention is None else f"{BACKBONE}.{block.attention}"
    units = tuple(
        replace(unit, modules=full(unit.modules), attention=None if unit.attention is None else attention)
        for unit in block.units
    )
    return replace(
        block,
        module=f"{BACKBONE}.{block.module}",
        units=units,
        norms=tuple(replace(norm, norm=f"{BACKBONE}.{norm.norm}", readers=full(norm.readers)) for norm in block.norms),
        attention=attention,
        activations=tuple(
            replace(each, module=f"{BACKBONE}.{each.module}", layer=f"{BACKBONE}.{each.layer}")
            for each in block.activations
        ),
        residuals=tuple(
            replace(each, layer=f"{BACKBONE}.{each.layer}", norm=f"{BACKBONE}.{each.norm}") for each in block.residuals
        ),
        passing=full(block.passing),
    )
