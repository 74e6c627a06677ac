# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Counts what each unit costs: multiply-accumulates and stored weights, from one forward of the model's own code."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq.architectures.describe import (
    Architecture,
    configured_channels,
    configured_image_size,
    describe,
    require_image_size,
)
from optimum_mixq.architectures.watching import watched_units
from optimum_mixq.artifacts import UnitCosts
from optimum_mixq.config import ATTENTION_CHILD, STEM_AND_HEAD_BITS
from optimum_mixq.quant.attention import AttentionQuantizer
from optimum_mixq.quant.layers import Arithmetic
from optimum_mixq.quant.packed import PackedLinear
from optimum_mixq.quant.packed_embedding import PackedConv2d
from optimum_mixq.utils.file_size import file_bytes


META = torch.device("meta")


def measure_costs(model: PreTrainedModel, arithmetic: Arithmetic) -> UnitCosts:
    """Return the costs of a model's units for one image of the configured size."""
    architecture = describe(model)
    macs = {unit.name: 0 for unit in architecture.units}

    def watch(unit: str, operands: Sequence[Tensor]) -> None:
        macs[unit] = _matmul_macs(operands) if len(operands) == 2 else operands[0][..., 0].numel()

    rows: dict[str, int] = {}
    with watched_units(model, watch), torch.no_grad():
        hooks = [_count_outputs(model, name, rows) for name in (architecture.stem, *architecture.heads)]
        try:
            model(pixel_values=_blank_image(model))
        finally:
            for hook in hooks:
                hook.remove()
    weights = {
        unit.name: tuple(model.get_submodule(name).weight.numel() for name in unit.modules)
        for unit in architecture.units
    }
    for unit, counts in weights.items():
        macs[unit] *= sum(counts) if counts else 1  # rows x weights
    fixed_macs = sum(rows[name] * model.get_submodule(name).weight[0].numel() for name in rows)
    fixed_bops = fixed_macs * STEM_AND_HEAD_BITS**2
    return UnitCosts(macs, weights, _fixed_bytes(model, architecture, arithmetic), fixed_bops, arithmetic)


def _matmul_macs(operands: Sequence[Tensor]) -> int:
    """Return the MACs of q k^T, for (B, heads, T, size) twice, or of A v, for (B, heads, T, T) and another such."""
    left, right = operands
    batch, heads, tokens, _ = left.shape
    return batch * heads * tokens * right.shape[2] * right.shape[3]


def _count_outputs(model: PreTrainedModel, name: str, rows: dict[str, int]) -> torch.utils.hooks.RemovableHandle:
    def count(_: nn.Module, __: tuple, output: Tensor) -> None:
        rows[name] = output.numel()

    return model.get_submodule(name).register_forward_hook(count)


def _blank_image(model: PreTrainedModel) -> Tensor:
    height, width = configured_image_size(model)
    require_image_size(model, (height, width))
    return torch.zeros(1, configured_channels(model), height, width, dtype=model.dtype, device=model.device)


def _fixed_bytes(model: PreTrainedModel, architecture: Architecture, arithmetic: Arithmetic) -> int:
    """Return the bytes of the saved file without the units' codes.

    Its header, which names each tensor, is counted as with 8-bit units, where its numbers are the longest: a plan's
    file is never larger than its costs say.
    """
    codes = {f"{name}.weight" for name in architecture.unit_of_module}
    tensors = _packed_tensors(model, architecture, arithmetic)
    return file_bytes(model, tensors) - sum(tensors[name].nbytes for name in codes)


def _packed_tensors(model: PreTrainedModel, architecture: Architecture, arithmetic: Arithmetic) -> dict[str, Tensor]:
    """Return the tensors of the packed model, on the meta device and with 8-bit units, by name."""
    layers = [*architecture.unit_of_module, *architecture.heads, architecture.stem]
    weights = {f"{name}.weight" for name in layers}
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name not in weights}
    # Folding a LayerNorm's shift gives its readers a bias, if they had none.
    given_bias = {
        reader
        for norm in architecture.norms
        for reader in norm.readers
        if arithmetic == "folded" and norm.shift_foldable
    }
    packed: dict[str, nn.Module] = {}
    for name in layers:
        layer = model.get_submodule(name)
        if name == architecture.stem:
            packed[name] = PackedConv2d(layer.weight.shape, layer.stride, 8, 8, META)
        else:
            has_bias = layer.bias is not None or name in given_bias
            packed[name] = PackedLinear(layer.in_features, layer.out_features, 8, 8, arithmetic, has_bias, META)
    for block in architecture.blocks:
        if block.attention is not None:
            operands = AttentionQuantizer(block.heads, block.head_size, 8, 8, META)
            packed[f"{block.attention}.{ATTENTION_CHILD}"] = operands
    for name, module in packed.items():
        tensors |= {f"{name}.{key}": tensor for key, tensor in module.state_dict().items()}
    return tensors
