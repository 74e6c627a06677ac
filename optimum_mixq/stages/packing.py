# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Turns a calibrated, fake-quantized model into one that can be trained, and into packed integers."""

import copy

from torch import nn
from transformers import PreTrainedModel

from optimum_mixq.quant.attention import AttentionQuantizer
from optimum_mixq.quant.layers import GriddedLinear, QuantConv2d, QuantLinear
from optimum_mixq.quant.learned import LearnedAttention, LearnedLinear
from optimum_mixq.quant.packed import PackedLinear
from optimum_mixq.quant.packed_embedding import PackedConv2d


_QUANTIZED = (GriddedLinear, QuantConv2d, LearnedAttention)


def make_trainable(calibrated: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a calibrated model whose weights and grids can be trained."""
    learned: dict[int, nn.Module] = {}
    for module in calibrated.modules():
        if isinstance(module, QuantLinear):
            learned[id(module)] = LearnedLinear.from_quant(module).train(module.training)
        elif isinstance(module, AttentionQuantizer):
            learned[id(module)] = LearnedAttention.from_quant(module).train(module.training)
    return copy.deepcopy(calibrated, learned).requires_grad_(True)


def pack(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a calibrated model with packed layers, which computes the same from integers."""
    # As deepcopy's memo the packed layers take the place of copies, so no float weight is copied.
    layers = {id(module): pack_layer(module) for module in model.modules() if isinstance(module, _QUANTIZED)}
    if not layers:
        raise ValueError("Expected a calibrated model, found no quantized layer in it. Call calibrate(...) first.")
    return copy.deepcopy(model, layers).eval().requires_grad_(False)


def pack_layer(layer: nn.Module) -> nn.Module:
    """Return the packed layer of a fake-quantized one, and any other module as it is."""
    if isinstance(layer, GriddedLinear):
        return PackedLinear.from_quant(layer)
    if isinstance(layer, LearnedAttention):
        return layer.settled()
    return PackedConv2d.from_quant(layer) if isinstance(layer, QuantConv2d) else layer


def store_layer(layer: nn.Module) -> nn.Module:
    """Return what `pack_layer` returns, without a kernel until its first forward: it may never run."""
    return PackedLinear.from_quant(layer, prepared=False) if isinstance(layer, GriddedLinear) else pack_layer(layer)
