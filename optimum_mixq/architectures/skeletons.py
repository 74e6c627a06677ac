# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The layers of quantized models without content: what loading fills, and what bytes are counted from."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq.architectures import grid_attention  # noqa: F401 (importing it registers it)
from optimum_mixq.architectures.attention import route_attention
from optimum_mixq.architectures.describe import describe, replace_module
from optimum_mixq.config import ATTENTION, ATTENTION_CHILD, STEM_AND_HEAD_BITS
from optimum_mixq.quant.arithmetics import arithmetic_of
from optimum_mixq.quant.attention import AttentionQuantizer
from optimum_mixq.quant.grids import UniformGrid
from optimum_mixq.quant.layers import QuantConv2d
from optimum_mixq.quant.learned import LearnedAttention, LearnedLinear
from optimum_mixq.quant.packed import PackedLinear
from optimum_mixq.quant.packed_embedding import PackedConv2d


# Bits of weights and activations, by unit name.
UnitBits = Mapping[str, tuple[int, int]]


def packed_skeleton(
    model: PreTrainedModel, bits: UnitBits, arithmetic: str, device: torch.device | None = None
) -> dict[str, nn.Module]:
    """Return the modules of the packed model that are not the float model's own, empty, by module name.

    They are on `device`, or where the layers are that they replace.
    """
    skeleton: dict[str, nn.Module] = {}
    for name, (weight_bits, input_bits), has_bias in _linear_layers(model, bits, arithmetic):
        layer = model.get_submodule(name)
        skeleton[name] = PackedLinear(
            layer.in_features,
            layer.out_features,
            weight_bits,
            input_bits,
            arithmetic,
            has_bias,
            device or layer.weight.device,
        )
    stem_name = describe(model).stem
    stem = model.get_submodule(stem_name)
    where = device or stem.weight.device
    bits_of_stem = STEM_AND_HEAD_BITS, STEM_AND_HEAD_BITS
    skeleton[stem_name] = PackedConv2d(stem.weight.shape, stem.stride, *bits_of_stem, where, stem.bias is None)
    for name, heads, size, widths in _attentions(model, bits):
        skeleton[name] = AttentionQuantizer(heads, size, *widths, where)
    return skeleton


def trainable_skeleton(model: PreTrainedModel, bits: UnitBits, arithmetic: str) -> dict[str, nn.Module]:
    """Return the same modules with float weights and learned grids, empty, where the layers are that they replace."""
    skeleton: dict[str, nn.Module] = {}
    for name, (weight_bits, input_bits), has_bias in _linear_layers(model, bits, arithmetic):
        weight = model.get_submodule(name).weight
        outputs, inputs = weight.shape
        bias = weight.new_zeros(outputs, dtype=torch.get_default_dtype()) if has_bias else None
        grids = _empty_grid(outputs, weight_bits, weight.device), _empty_grid(inputs, input_bits, weight.device)
        skeleton[name] = LearnedLinear(torch.empty_like(weight), bias, *grids, arithmetic)
    stem_name = describe(model).stem
    stem = model.get_submodule(stem_name)
    where, bits_of_stem = stem.weight.device, STEM_AND_HEAD_BITS
    skeleton[stem_name] = QuantConv2d(
        stem, _empty_grid(stem.out_channels, bits_of_stem, where), _empty_grid(stem.in_channels, bits_of_stem, where)
    )
    for name, heads, size, widths in _attentions(model, bits):
        skeleton[name] = LearnedAttention(heads, size, *widths, where)
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


def _linear_layers(
    model: PreTrainedModel, bits: UnitBits, arithmetic: str
) -> Iterator[tuple[str, tuple[int, int], bool]]:
    """Yield the name, the bits, and whether there is a bias, of each linear layer that is quantized."""
    architecture = describe(model)
    # Folding a LayerNorm's shift gives its readers a bias, if they had none.
    given_bias = {
        reader
        for norm in architecture.norms
        for reader in norm.readers
        if arithmetic_of(arithmetic).folds_norms and norm.shift_foldable
    }
    widths = {name: bits[unit.name] for name, unit in architecture.unit_of_module.items()}
    widths |= dict.fromkeys(architecture.heads, (STEM_AND_HEAD_BITS, STEM_AND_HEAD_BITS))
    for name, width in widths.items():
        yield name, width, model.get_submodule(name).bias is not None or name in given_bias


def _attentions(model: PreTrainedModel, bits: UnitBits) -> Iterator[tuple[str, int, int, tuple[int, int]]]:
    """Yield the name of each attention's quantizer, its heads and their size, and the bits of its two matmuls."""
    for block in describe(model).blocks:
        if block.attention is not None:
            widths = bits[block.unit("qk").name][1], bits[block.unit("av").name][1]
            yield f"{block.attention}.{ATTENTION_CHILD}", block.heads, block.head_size, widths


def _empty_grid(size: int, bits: int, device: torch.device) -> UniformGrid:
    return UniformGrid(torch.ones(size, device=device), torch.ones(size, device=device), bits)
