# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The default arithmetic: each input channel keeps its own scale, and products have an 8-bit operand."""

import torch
from torch import Tensor

from optimum_mixq.kernels import OPERAND_BITS, WeightCodes
from optimum_mixq.quant.arithmetics.base import Arithmetic, register_arithmetic
from optimum_mixq.quant.arithmetics.folded import FoldedArithmetic
from optimum_mixq.quant.grids import UniformGrid, dequantize


LARGEST_OPERAND = 2 ** (OPERAND_BITS - 1) - 1


@register_arithmetic
class ColumnArithmetic(Arithmetic):
    """The weight's grid, of few bits, rounds v_oc itself; s_c v_oc is rounded once more, to an 8-bit operand.

    At 8 bits per weight that would round twice for nothing, so there a layer is folded.
    """

    name = "column"
    folds_norms = False
    attends_by_channel = True

    def of_layer(self, weight_bits: int) -> Arithmetic:
        return FoldedArithmetic() if weight_bits == OPERAND_BITS else self

    def bit_operations(self, weight_bits: int, input_bits: int) -> int:
        return OPERAND_BITS * input_bits

    def to_grid(self, weight: Tensor, input_scale: Tensor) -> Tensor:
        return weight

    def from_grid(self, values: Tensor, input_scale: Tensor) -> Tensor:
        return values

    def effective_weight(self, values: Tensor, input_scale: Tensor) -> Tensor:
        operand, scale = column_operand(values.detach(), input_scale)
        return values + (operand * scale / input_scale - values).detach()

    def operand(self, codes: Tensor, grid: UniformGrid, input_scale: Tensor) -> tuple[Tensor, Tensor]:
        return column_operand(dequantize(codes, grid), input_scale)

    def weight_codes(self, codes: Tensor, grid: UniformGrid, input_scale: Tensor) -> WeightCodes:
        return WeightCodes(codes, grid.scale[:, 0], grid.zero_point[:, 0], input_scale, grid.bits)


def column_operand(values: Tensor, input_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the int8-valued operand (O, C) of values (O, C) times input_scale (C,), and its scale (O, 1)."""
    scaled = values * input_scale
    scale = scaled.abs().amax(1, keepdim=True) / LARGEST_OPERAND
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return torch.floor(scaled / scale + 0.5), scale
