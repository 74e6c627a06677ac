# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The layers of quantized models without content: what loading fills, and what bytes are counted from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq.architectures import grid_attention  # noqa: F401 (importing it registers it)
from optimum_mixq.architectures.attention import route_attention
from optimum_mixq.architectures.describe import describe, replace_module
from optimum_mixq.config import ATTENTION, ATTENTION_CHILD, PIXEL_BITS
from optimum_mixq.quant.arithmetics import arithmetic_of
from optimum_mixq.quant.attention import AttentionQuantizer
from optimum_mixq.quant.grids import UniformGrid
from optimum_mixq.quant.layers import QuantConv2d
from optimum_mixq.quant.learned import LearnedAttention, LearnedLinear
from optimum_mixq.quant.packed import PackedLinear
from optimum_mixq.quant.packed_embedding import PackedConv2d
from optimum_mixq.quant.softmax_grids import DEFAULT_SOFTMAX


@dataclass(frozen=True)
class Widths:
    """What the modules of a quantized model are made by."""

    bits: Mapping[str, tuple[int, int]]  # of weights and activations, by unit name
    stem_and_head_bits: int
    arithmetic: str
    softmax: str = DEFAULT_SOFTMAX


def packed_skeleton(
    model: PreTrainedModel, widths: Widths, device: torch.device | None = None
) -> dict[str, nn.Module]:
    """Return the modules of the packed model that are not the float model's own, empty, by module name.

    They are on `device`, or where the layers are that they replace.
    """
    skeleton: dict[str, nn.Module] = {}
    for name, (weight_bits, input_bits), has_bias in _linear_layers(model, widths):
        layer = model.get_submodule(name)
        skeleton[name] = PackedLinear(
            layer.in_features,
            layer.out_features,
            weight_bits,
            input_bits,
            widths.arithmetic,
            has_bias,
            device or layer.weight.device,
        )
    where = device or model.device
    stem_name = describe(model).stem
    if stem_name is not None:
        stem = model.get_submodule(stem_name)
        bits_of_stem = widths.stem_and_head_bits, PIXEL_BITS
        skeleton[stem_name] = PackedConv2d(stem.weight.shape, stem.stride, *bits_of_stem, where, stem.bias is None)
    for name, heads, size, bits in _attentions(model, widths):
        skeleton[name] = AttentionQuantizer(heads, size, *bits, where, widths.softmax)
    return skeleton


def trainable_skeleton(model: PreTrainedModel, widths: Widths) -> dict[str, nn.Module]:
    """Return the same modules with float weights and learned grids, empty, where the layers are that they replace."""
    skeleton: dict[str, nn.Module] = {}
    for name, (weight_bits, input_bits), has_bias in _linear_layers(model, widths):
        weight = model.get_submodule(name).weight
        outputs, inputs = weight.shape
        bias = weight.new_zeros(outputs, dtype=torch.get_default_dtype()) if has_bias else None
        grids = _empty_grid(outputs, weight_bits, weight.device), _empty_grid(inputs, input_bits, weight.device)
        skeleton[name] = LearnedLinear(torch.empty_like(weight), bias, *grids, widths.arithmetic)
    where, stem_name = model.device, describe(model).stem
    if stem_name is not None:
        stem = model.get_submodule(stem_name)
        weight_grid = _empty_grid(stem.out_channels, widths.stem_and_head_bits, where)
        skeleton[stem_name] = QuantConv2d(stem, weight_grid, _empty_grid(stem.in_channels, PIXEL_BITS, where))
    for name, heads, size, bits in _attentions(model, widths):
        skeleton[name] = LearnedAttention(heads, size, *bits, where, widths.softmax)
    return skeleton


def insert_skeleton(model: PreTrainedModel, skeleton: Mapping[str, nn.Module]) -> None:
    """Put the modules in their places, and let the model run the attention that is among them; in place."""
    for name, module in skeleton.items():
        parent, _, child = name.rpartition(".")
        if child == ATTENTION_CHILD:
            model.get_submodule(parent).add_module(child, module)
        else:
            replace_module(model, name, module)
    route_attention(model, ATTENTION)


def tensors_with(model: PreTrainedModel, skeleton: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the state that the model would have with the modules in their places; nothing is put there."""
    state = {name: tensor for name, tensor in model.state_dict().items() if name.rpartition(".")[0] not in skeleton}
    for name, module in skeleton.items():
        state |= {f"{name}.{key}": tensor for key, tensor in module.state_dict().items()}
    return state


def _linear_layers(model: PreTrainedModel, widths: Widths) -> Iterator[tuple[str, tuple[int, int], bool]]:
    """Yield the name, the bits, and whether there is a bias, of each linear layer that is quantized."""
    architecture = describe(model)
    # Folding a LayerNorm's shift gives its readers a bias, if they had none.
    given_bias = {
        reader
        for norm in architecture.norms
        for reader in norm.readers
        if arithmetic_of(widths.arithmetic).folds_norms and norm.shift_foldable
    }
    found = {name: widths.bits[unit.name] for name, unit in architecture.unit_of_module.items()}
    found |= dict.fromkeys(architecture.heads, (widths.stem_and_head_bits, widths.stem_and_head_bits))
    for name, bits in found.items():
        yield name, bits, model.get_submodule(name).bias is not None or name in given_bias


def _attentions(model: PreTrainedModel, widths: Widths) -> Iterator[tuple[str, int, int, tuple[int, int]]]:
    """Yield the name of each attention's quantizer, its heads and their size, and the bits of its two matmuls."""
    for block in describe(model).blocks:
        if block.attention is not None:
            bits = widths.bits[block.unit("qk").name][1], widths.bits[block.unit("av").name][1]
            yield f"{block.attention}.{ATTENTION_CHILD}", block.heads, block.head_size, bits


def _empty_grid(size: int, bits: int, device: torch.device) -> UniformGrid:
    return UniformGrid(torch.ones(size, device=device), torch.ones(size, device=device), bits)
