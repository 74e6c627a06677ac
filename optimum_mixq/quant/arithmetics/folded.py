# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The paper's arithmetic: the input's scales are absorbed before the weight is rounded."""

from torch import Tensor

from optimum_mixq.kernels import WeightCodes
from optimum_mixq.quant.arithmetics.base import Arithmetic, register_arithmetic
from optimum_mixq.quant.grids import UniformGrid


@register_arithmetic
class FoldedArithmetic(Arithmetic):
    """The weight's grid rounds s_c v_oc, so that codes of the weight multiply codes of the input."""

    name = "folded"
    folds_norms = True
    attends_by_channel = False

    def bit_operations(self, weight_bits: int, input_bits: int) -> int:
        return weight_bits * input_bits

    def to_grid(self, weight: Tensor, input_scale: Tensor) -> Tensor:
        return weight * input_scale

    def from_grid(self, values: Tensor, input_scale: Tensor) -> Tensor:
        return values / input_scale

    def effective_weight(self, values: Tensor, input_scale: Tensor) -> Tensor:
        return values / input_scale

    def operand(self, codes: Tensor, grid: UniformGrid, input_scale: Tensor) -> tuple[Tensor, Tensor]:
        return codes.to(grid.scale.dtype) - grid.zero_point, grid.scale

    def weight_codes(self, codes: Tensor, grid: UniformGrid, input_scale: Tensor) -> WeightCodes:
        return WeightCodes(codes, grid.scale[:, 0], grid.zero_point[:, 0], None, grid.bits)
