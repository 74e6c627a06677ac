# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Layers with a float weight and fake quantization: what calibration builds and training trains."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optimum_mixq.kernels import IntegerProduct, Kernel, ReferenceKernel, prepare_kernel
from optimum_mixq.quant.arithmetics import arithmetic_of
from optimum_mixq.quant.grids import UniformGrid, fake_quantize, require_storable, round_to_codes
from optimum_mixq.quant.patches import build_kernels, embed_patches


def integer_bias(operand: Tensor, scale: Tensor, input_zero_point: Tensor, bias: Tensor | None) -> Tensor:
    """Return bias (O,) less what the zero points add: sum_c (q_c - z_c) m_oc = sum_c q_c m_oc - sum_c z_c m_oc."""
    shift = scale[:, 0] * (operand * input_zero_point.float()).sum(1)
    return -shift if bias is None else bias.to(shift.dtype) - shift


class FixedGrids(nn.Module):
    """The grids of a layer's weight and input as buffers: what calibration found, and nothing changes."""

    mixq_weight_scale: Tensor
    mixq_weight_zero_point: Tensor
    mixq_input_scale: Tensor
    mixq_input_zero_point: Tensor
    weight_bits: int
    input_bits: int

    def register_grids(self, weight_grid: UniformGrid, input_grid: UniformGrid) -> None:
        for name, grid in (("weight", weight_grid), ("input", input_grid)):
            require_storable(grid.scale)
            self.register_buffer(f"mixq_{name}_scale", grid.scale)
            self.register_buffer(f"mixq_{name}_zero_point", grid.zero_point)

    @property
    def weight_grid(self) -> UniformGrid:
        return UniformGrid(self.mixq_weight_scale, self.mixq_weight_zero_point, self.weight_bits)

    @property
    def input_grid(self) -> UniformGrid:
        return UniformGrid(self.mixq_input_scale, self.mixq_input_zero_point, self.input_bits)


class GriddedLinear(nn.Module, ABC):
    """A linear layer with a float weight, whose input and weight have grids: what a packed layer is made from.

    `arithmetic` is the name of the model's; the layer has the one that belongs to its weight's bits.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        weight_grid: UniformGrid,
        input_grid: UniformGrid,
        arithmetic: str,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight_bits, self.input_bits = weight_grid.bits, input_grid.bits
        self.arithmetic = arithmetic_of(arithmetic).of_layer(self.weight_bits)
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)
        scale, zero_point = (
            values.detach().flatten().expand(self.in_features).clone()
            for values in (input_grid.scale, input_grid.zero_point)
        )
        self.take_grids(_with_shape(weight_grid, -1, 1), UniformGrid(scale, zero_point, self.input_bits))

    @abstractmethod
    def take_grids(self, weight_grid: UniformGrid, input_grid: UniformGrid) -> None:
        """Register what keeps the grids of the weight (O, 1) and of the input (C,)."""

    @property
    @abstractmethod
    def weight_grid(self) -> UniformGrid:
        """Return the grid, scales (O, 1), of what `gridded_weight` returns."""

    @property
    @abstractmethod
    def input_grid(self) -> UniformGrid:
        """Return the grid of the input, scales (C,)."""

    def gridded_weight(self) -> Tensor:
        """Return what the weight's grid is applied to (O, C)."""
        return self.arithmetic.to_grid(self.weight, self.input_grid.scale)

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
        operand, scale = self.arithmetic.operand(codes, self.weight_grid, input_grid.scale)
        return operand, scale, integer_bias(operand, scale, input_grid.zero_point, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, W{self.weight_bits}"
            f"A{self.input_bits}, {self.arithmetic.name}"
        )


class QuantLinear(FixedGrids, GriddedLinear):
    """A linear layer whose grids are fixed: what calibration builds."""

    def take_grids(self, weight_grid: UniformGrid, input_grid: UniformGrid) -> None:
        self.register_grids(weight_grid, input_grid)

    def effective_weight(self) -> Tensor:
        """Return the weight (O, C) that the layer multiplies its dequantized input with, straight-through."""
        values = fake_quantize(self.gridded_weight(), self.weight_grid)
        return self.arithmetic.effective_weight(values, self.mixq_input_scale)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return self.forward_in_integers(input)
        rounded = fake_quantize(input, self.input_grid)
        return F.linear(rounded, self.effective_weight().to(input.dtype), self.bias)


class QuantConv2d(FixedGrids):
    """A patch embedding whose pixels (per channel) and weight (per output) are rounded to their grids.

    One without a bias, such as CLIP's, gets zeros for it; `bias_added` says so.
    """

    def __init__(self, convolution: nn.Conv2d, weight_grid: UniformGrid, input_grid: UniformGrid) -> None:
        super().__init__()
        if tuple(convolution.stride) != tuple(convolution.kernel_size):
            raise ValueError(f"Expected a patch embedding (stride = kernel size), found {convolution}.")
        self.stride: tuple[int, int] = (convolution.stride[0], convolution.stride[1])
        self.weight_bits, self.input_bits = weight_grid.bits, input_grid.bits
        self.weight = nn.Parameter(convolution.weight.detach().clone())
        self.bias_added = convolution.bias is None
        bias = self.weight.new_zeros(len(self.weight)) if convolution.bias is None else convolution.bias
        self.bias = nn.Parameter(bias.detach().clone())
        self.register_grids(_with_shape(weight_grid, -1, 1), _with_shape(input_grid, -1, 1, 1))

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


def _with_shape(grid: UniformGrid, *shape: int) -> UniformGrid:
    return UniformGrid(grid.scale.reshape(shape), grid.zero_point.reshape(shape), grid.bits)
