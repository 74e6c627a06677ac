# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Counts what each unit costs: multiply-accumulates and stored weights, from one forward of the model's own code."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq.architectures import Architecture, NormReaders, attention_shape, describe, expected_image_size
from optimum_mixq.artifacts import UnitCosts
from optimum_mixq.config import STEM_AND_HEAD_BITS
from optimum_mixq.lrp.propagation import watched_units
from optimum_mixq.quant.layers import Arithmetic


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
    size = expected_image_size(model) or (model.config.image_size,) * 2
    height, width = (side if isinstance(side, int) else side[0] for side in size)
    return torch.zeros(1, model.config.num_channels, height, width, dtype=model.dtype, device=model.device)


def _fixed_bytes(model: PreTrainedModel, architecture: Architecture, arithmetic: Arithmetic) -> int:
    """Return the bytes of every saved tensor whose size does not depend on the plan."""
    layers = [*architecture.unit_of_module, *architecture.heads, architecture.stem]
    packed = {f"{name}.weight" for name in layers}
    total = sum(tensor.numel() for name, tensor in model.named_parameters() if name not in packed) * 4
    total += sum(buffer.numel() * buffer.element_size() for name, buffer in _saved_buffers(model))
    for name in layers:
        weight = model.get_submodule(name).weight
        outputs, inputs = weight.shape[:2]
        total += 3 * outputs + 4 * inputs  # weight: int16 scale, uint8 zero point; input: int16 both
        if name not in architecture.unit_of_module:
            total += weight.numel() * STEM_AND_HEAD_BITS // 8
    for block in architecture.blocks:
        if block.attention is not None:
            heads, size = attention_shape(model.get_submodule(block.attention))
            total += 3 * 2 * 2 * heads * size  # query, key, value: int16 scale and zero point
    if arithmetic == "folded":
        total += sum(_given_bias(model, norm) for norm in architecture.norms)
    return total


def _given_bias(model: PreTrainedModel, norm: NormReaders) -> int:
    """Return the bytes of the biases that folding a LayerNorm's shift gives to readers without one."""
    readers = [model.get_submodule(name) for name in norm.readers]
    return sum(4 * reader.out_features for reader in readers if norm.shift_foldable and reader.bias is None)


def _saved_buffers(model: PreTrainedModel) -> list[tuple[str, Tensor]]:
    saved = set(model.state_dict())
    return [(name, buffer) for name, buffer in model.named_buffers() if name in saved]
