# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Counts what each unit costs: multiply-accumulates and stored weights, from one forward of the model's own code."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq.architectures.describe import describe
from optimum_mixq.architectures.measuring import blank_images
from optimum_mixq.architectures.skeletons import Widths, packed_skeleton, tensors_with
from optimum_mixq.architectures.watching import watched_units
from optimum_mixq.artifacts import UnitCosts
from optimum_mixq.config import PIXEL_BITS, CalibrationOptions
from optimum_mixq.quant.arithmetics import arithmetic_of
from optimum_mixq.utils.bits import LARGEST_BITS
from optimum_mixq.utils.file_size import file_bytes


def measure_costs(
    model: PreTrainedModel, options: CalibrationOptions, image_size: tuple[int, int] | None = None
) -> UnitCosts:
    """Return the costs of a model's units for one image of this (height, width), or else of the configured one."""
    architecture = describe(model)
    macs = {unit.name: 0 for unit in architecture.units}

    def watch(unit: str, operands: Sequence[Tensor]) -> None:
        macs[unit] = _matmul_macs(operands) if len(operands) == 2 else operands[0][..., 0].numel()

    rows: dict[str, int] = {}
    stems = () if architecture.stem is None else (architecture.stem,)
    with watched_units(model, watch), torch.no_grad():
        hooks = [_count_outputs(model, name, rows) for name in (*stems, *architecture.heads)]
        try:
            model(pixel_values=blank_images(model, 1, image_size))
        finally:
            for hook in hooks:
                hook.remove()
    weights = {
        unit.name: tuple(model.get_submodule(name).weight.numel() for name in unit.modules)
        for unit in architecture.units
    }
    for unit, counts in weights.items():
        macs[unit] *= sum(counts) if counts else 1  # rows x weights
    fixed_macs = {name: rows[name] * model.get_submodule(name).weight[0].numel() for name in rows}
    stem = sum(fixed_macs.pop(name) for name in stems) * options.stem_and_head_bits * PIXEL_BITS
    of_heads = arithmetic_of(options.arithmetic).of_layer(options.stem_and_head_bits)
    heads = sum(fixed_macs.values()) * of_heads.bit_operations(options.stem_and_head_bits, options.stem_and_head_bits)
    widest = dict.fromkeys((unit.name for unit in architecture.units), (LARGEST_BITS, LARGEST_BITS))
    widths = Widths(widest, options.stem_and_head_bits, options.arithmetic, options.softmax)
    return UnitCosts(macs, weights, _fixed_bytes(model, widths), stem + heads, options.arithmetic)


def _matmul_macs(operands: Sequence[Tensor]) -> int:
    """Return the MACs of q k^T, for (B, heads, T, size) twice, or of A v, for (B, heads, T, T) and another such."""
    left, right = operands
    batch, heads, tokens, _ = left.shape
    return batch * heads * tokens * right.shape[2] * right.shape[3]


def _count_outputs(model: PreTrainedModel, name: str, rows: dict[str, int]) -> torch.utils.hooks.RemovableHandle:
    def count(_: nn.Module, __: tuple, output: Tensor) -> None:
        rows[name] = output.numel()

    return model.get_submodule(name).register_forward_hook(count)


def _fixed_bytes(model: PreTrainedModel, widest: Widths) -> int:
    """Return the bytes of the saved file without the units' codes.

    Its header, which names each tensor, is counted as with the widest units, where its numbers are the longest: a
    plan's file is never larger than its costs say.
    """
    skeleton = packed_skeleton(model, widest, torch.device("meta"))
    codes = sum(skeleton[name].get_buffer("weight").nbytes for name in describe(model).unit_of_module)
    return file_bytes(model, tensors_with(model, skeleton)) - codes
