# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Layers with a float weight and fake quantization: what calibration builds and training trains.

With an input grid of scales s_c and a weight grid of scales t_o, a layer computes

    y_o = sum_c s_c (q_c - z_c) v_oc + bias_o,      q_c the input's codes, v the weight's values on its grid.

"folded" rounds s_c v_oc to the weight's grid, so that codes multiply codes. "column" rounds v_oc to its own grid, of
few bits, and s_c v_oc once more to an 8-bit operand; at 8 bits per weight that would round twice for nothing, so there
a column-scaled layer is folded too.
"""

from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optimum_mixq.kernels import IntegerProduct, Kernel, ReferenceKernel, prepare_kernel
from optimum_mixq.quant.grids import UniformGrid, dequantize, fake_quantize, round_to_codes
from optimum_mixq.quant.patches import build_kernels, embed_patches


Arithmetic = Literal["column", "folded"]


def layer_arithmetic(arithmetic: Arithmetic, weight_bits: int) -> Arithmetic:
    """Return the arithmetic of one layer: 8-bit weights are their own 8-bit operand.

    >>> layer_arithmetic("column", 4), layer_arithmetic("column", 8)
    ('column', 'folded')
    """
    return "folded" if weight_bits == 8 else arithmetic


def column_operand(values: Tensor, input_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the int8-valued operand (O, C) of values (O, C) times input_scale (C,), and its scale (O, 1)."""
    scaled = values * input_scale
    scale = scaled.abs().amax(1, keepdim=True) / 127
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return torch.floor(scaled / scale + 0.5), scale


def round_to_operand(values: Tensor, input_scale: Tensor) -> Tensor:
    """Return values (O, C) as a column-scaled layer's 8-bit operand holds them, with a straight-through gradient."""
    operand, scale = column_operand(values.detach(), input_scale)
    return values + (operand * scale / input_scale - values).detach()


def integer_operand(
    codes: Tensor, grid: UniformGrid, input_scale: Tensor, arithmetic: Arithmetic
) -> tuple[Tensor, Tensor]:
    """Return the integers (O, C), as floats, that the input's codes are multiplied with, and their scale (O, 1)."""
    if arithmetic == "folded":
        return codes.to(grid.scale.dtype) - grid.zero_point, grid.scale
    return column_operand(dequantize(codes, grid), input_scale)


def integer_bias(operand: Tensor, scale: Tensor, input_zero_point: Tensor, bias: Tensor | None) -> Tensor:
    """Return bias (O,) less what the zero points add: sum_c (q_c - z_c) m_oc = sum_c q_c m_oc - sum_c z_c m_oc."""
    shift = scale[:, 0] * (operand * input_zero_point.float()).sum(1)
    return -shift if bias is None else bias.to(shift.dtype) - shift


class GriddedLinear(nn.Module, ABC):
    """A linear layer with a float weight, whose input and weight have grids: what a packed layer is made from."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, weight: Tensor, bias: Tensor | None, bits: tuple[int, int], arithmetic: Arithmetic) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight_bits, self.input_bits = bits
        self.arithmetic = layer_arithmetic(arithmetic, self.weight_bits)
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)

    @property
    @abstractmethod
    def weight_grid(self) -> UniformGrid:
        """Return the grid, scales (O, 1), of what `gridded_weight` returns."""

    @property
    @abstractmethod
    def input_grid(self) -> UniformGrid:
        """Return the grid of the input, scales (C,)."""

    def gridded_weight(self) -> Tensor:
        """Return what the weight's grid is applied to: the weight, times the input's scales if folded."""
        return self.weight * self.input_grid.scale if self.arithmetic == "folded" else self.weight

    def kernel(self) -> Kernel:
        """Return what the packed layer will run: codes (..., C) to outputs (..., O)."""
        operand, scale, bias = self._integers(self.input_grid)
        return prepare_kernel(IntegerProduct(operand.to(torch.int8), scale[:, 0], bias))

    def forward_in_integers(self, input: Tensor) -> Tensor:
        """Multiply what the packed layer multiplies, as floats: exact while sums stay below 2^24.

        Dequantizing first would round every product, and a last digit decides which code a value in the next layer
        gets: over a whole network evaluation and the packed model would drift apart.
        """
        grid = self.input_grid
        operand, scale, bias = self._integers(grid)
        codes = round_to_codes(input, grid).to(operand.dtype)
        return (F.linear(codes, operand) * scale[:, 0] + bias).to(input.dtype)

    def _integers(self, input_grid: UniformGrid) -> tuple[Tensor, Tensor, Tensor]:
        codes = round_to_codes(self.gridded_weight(), self.weight_grid)
        operand, scale = integer_operand(codes, self.weight_grid, input_grid.scale, self.arithmetic)
        return operand, scale, integer_bias(operand, scale, input_grid.zero_point, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, W{self.weight_bits}"
            f"A{self.input_bits}, {self.arithmetic}"
        )


class QuantLinear(GriddedLinear):
    """A linear layer whose grids are fixed: what calibration builds."""

    mixq_weight_scale: Tensor
    mixq_weight_zero_point: Tensor
    mixq_input_scale: Tensor
    mixq_input_zero_point: Tensor

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        weight_grid: UniformGrid,
        input_grid: UniformGrid,
        arithmetic: Arithmetic,
    ) -> None:
        super().__init__(weight, bias, (weight_grid.bits, input_grid.bits), arithmetic)
        self.register_buffer("mixq_weight_scale", weight_grid.scale.reshape(-1, 1))  # (O, 1)
        self.register_buffer("mixq_weight_zero_point", weight_grid.zero_point.reshape(-1, 1))
        self.register_buffer("mixq_input_scale", _as_vector(input_grid.scale, self.in_features))  # (C,)
        self.register_buffer("mixq_input_zero_point", _as_vector(input_grid.zero_point, self.in_features))

    @property
    def weight_grid(self) -> UniformGrid:
        return UniformGrid(self.mixq_weight_scale, self.mixq_weight_zero_point, self.weight_bits)

    @property
    def input_grid(self) -> UniformGrid:
        return UniformGrid(self.mixq_input_scale, self.mixq_input_zero_point, self.input_bits)

    def effective_weight(self) -> Tensor:
        """Return the weight (O, C) that the layer multiplies its dequantized input with, straight-through."""
        values = fake_quantize(self.gridded_weight(), self.weight_grid)
        if self.arithmetic == "folded":
            return values / self.mixq_input_scale
        return round_to_operand(values, self.mixq_input_scale)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return self.forward_in_integers(input)
        rounded = fake_quantize(input, self.input_grid)
        return F.linear(rounded, self.effective_weight().to(input.dtype), self.bias)


class QuantConv2d(nn.Module):
    """A patch embedding whose pixels (per channel) and weight (per output) are rounded to their grids."""

    mixq_weight_scale: Tensor
    mixq_weight_zero_point: Tensor
    mixq_input_scale: Tensor
    mixq_input_zero_point: Tensor

    def __init__(self, convolution: nn.Conv2d, weight_grid: UniformGrid, input_grid: UniformGrid) -> None:
        super().__init__()
        if convolution.bias is None or tuple(convolution.stride) != tuple(convolution.kernel_size):
            raise ValueError(f"Expected a patch embedding (stride = kernel size, with bias), found {convolution}.")
        self.stride: tuple[int, int] = (convolution.stride[0], convolution.stride[1])
        self.weight_bits, self.input_bits = weight_grid.bits, input_grid.bits
        self.weight = nn.Parameter(convolution.weight.detach().clone())
        self.bias = nn.Parameter(convolution.bias.detach().clone())
        self.register_buffer("mixq_weight_scale", weight_grid.scale.reshape(-1, 1))
        self.register_buffer("mixq_weight_zero_point", weight_grid.zero_point.reshape(-1, 1))
        self.register_buffer("mixq_input_scale", input_grid.scale.view(-1, 1, 1))
        self.register_buffer("mixq_input_zero_point", input_grid.zero_point.view(-1, 1, 1))

    @property
    def weight_grid(self) -> UniformGrid:
        return UniformGrid(self.mixq_weight_scale, self.mixq_weight_zero_point, self.weight_bits)

    @property
    def input_grid(self) -> UniformGrid:
        return UniformGrid(self.mixq_input_scale, self.mixq_input_zero_point, self.input_bits)

    def forward(self, input: Tensor) -> Tensor:
        grid = self.input_grid
        if not self.training:
            # As the packed layer multiplies, to the bit.
            codes = round_to_codes(self.weight.flatten(1), self.weight_grid).view_as(self.weight)
            kernels = build_kernels(codes, self.weight_grid, grid, self.bias, ReferenceKernel)
            return embed_patches(input, grid, self.stride, kernels)
        weight = fake_quantize(self.weight.flatten(1), self.weight_grid).view_as(self.weight)
        pixels = fake_quantize(input, grid)
        return F.conv2d(pixels, weight.to(input.dtype), self.bias, self.stride)


def _as_vector(values: Tensor, size: int) -> Tensor:
    return values.detach().flatten().expand(size).clone()
