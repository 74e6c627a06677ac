# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Packed layers as modules whose exported form inference engines compute in 8-bit integers.

ONNX Runtime 1.32 and OpenVINO 2026.4 do so where a product reads uint8 codes on one grid, an int8 operand with a scale
for each output, and an int32 bias: with a float bias ONNX Runtime multiplies floats. So inputs are brought into the
space of codes by float operators (x / scale + zero_point), and their grid is the integers themselves.
"""

from dataclasses import dataclass

import torch
import torch.ao.quantization.fx._decomposed  # importing it registers torch.ops.quantized_decomposed
from torch import Tensor, nn

from optimum_mixq.kernels import IntegerProduct, WeightCodes
from optimum_mixq.quant.bitpacking import unpack_codes
from optimum_mixq.quant.grids import UniformGrid
from optimum_mixq.quant.packed import PackedLinear
from optimum_mixq.quant.packed_embedding import PackedConv2d
from optimum_mixq.quant.patches import patch_products


LARGEST_BIAS = 2**30
LARGEST_OPERAND = 127


@dataclass(frozen=True)
class StoredWeight:
    """What an operand is made from: codes, the scale (O,) that a column-scaled one is divided by, a whole factor."""

    codes: WeightCodes
    scale: Tensor
    factor: int


@dataclass(frozen=True)
class Affine:
    """What is done to each channel of a tensor: values * multiplier + offset, with positive multipliers."""

    multiplier: Tensor
    offset: Tensor

    def apply(self, values: Tensor) -> Tensor:
        return values * self.multiplier + self.offset

    def then(self, other: "Affine") -> "Affine":
        """Return what both do, this one first."""
        return Affine(self.multiplier * other.multiplier, self.offset * other.multiplier + other.offset)

    def flatten(self) -> "Affine":
        """Return the same for channels in one dimension."""
        return Affine(self.multiplier.flatten(), self.offset.flatten())


class Rounding(nn.Module):
    """Rounds values (..., C) to codes 0..2^bits - 1, as floats.

    `to_codes` brings them into the space of codes; it is None where they are there already.
    """

    multiplier: Tensor | None
    offset: Tensor | None

    def __init__(self, bits: int, to_codes: Affine | None = None) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("multiplier", None if to_codes is None else to_codes.multiplier)
        self.register_buffer("offset", None if to_codes is None else to_codes.offset)

    def forward(self, values: Tensor) -> Tensor:
        if self.multiplier is not None and self.offset is not None:
            values = values * self.multiplier + self.offset
        return round_to_integers(values, 0, 2**self.bits - 1)


class ExportLinear(nn.Module):
    """A linear layer as engines compute it in integers: an int8 operand (C, O), scales (O,), an int32 bias (O,).

    `as_matrices` says whether inputs of more than two dimensions are multiplied as matrices.
    """

    as_matrices = False
    operand: Tensor
    scale: Tensor
    bias: Tensor
    zero_point: Tensor

    def __init__(self, product: IntegerProduct, rounding: Rounding, output: Affine | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = product.operand.shape
        self.rounding = rounding
        # The bias counts in steps of the scale: where operands leave room in int8, larger ones make these steps finer.
        factor = LARGEST_OPERAND // max(1, int(product.operand.abs().max()))
        scale, bias = product.scale.double() / factor, product.bias.double()
        if output is not None:
            multiplier, offset = output.multiplier.double(), output.offset.double()
            scale, bias = scale * multiplier, bias * multiplier + offset
        # Outputs with next to no weights: larger scales, so that the bias fits int32, and the operand rounded again.
        widened = torch.maximum(scale, bias.abs() / LARGEST_BIAS)
        operand = torch.round(product.operand.double() * factor * (scale / widened)[:, None]).to(torch.int8)
        exact = torch.equal(operand, product.operand * factor)
        self.stored = StoredWeight(product.weight, product.scale, factor) if product.weight and exact else None
        self.register_buffer("operand", operand.T.contiguous())
        self.register_buffer("scale", widened.float())
        self.register_buffer("bias", torch.round(bias / widened).to(torch.int32))
        self.register_buffer("zero_point", torch.zeros(len(scale), dtype=torch.int64))

    @classmethod
    def from_packed(
        cls, layer: PackedLinear, in_codes: bool = False, input: Affine | None = None, output: Affine | None = None
    ) -> "ExportLinear":
        """Return the layer that computes what a packed one does.

        `in_codes` says that its input arrives in the space of codes; `input` is applied to what it reads, and `output`
        to what it puts out.
        """
        grid = layer.input_grid
        to_codes = grid_affine(grid) if input is None else input.then(grid_affine(grid))
        return cls(layer.product(), Rounding(grid.bits, None if in_codes else to_codes), output)

    def forward(self, input: Tensor) -> Tensor:
        operators = torch.ops.quantized_decomposed
        grid = (self.scale, self.zero_point)
        operand = operators.dequantize_per_channel(self.operand, *grid, 1, -128, 127, torch.int8)
        bias = operators.dequantize_per_channel(self.bias, *grid, 0, -(2**31), 2**31 - 1, torch.int32)
        if self.as_matrices and input.ndim > 2:
            rows = self.rounding(input).reshape(-1, input.shape[-1])
            return torch.addmm(bias, rows, operand).reshape(-1, *input.shape[1:-1], len(bias))
        if self.as_matrices or input.ndim > 2:
            return torch.matmul(self.rounding(input), operand) + bias
        # OpenVINO 2026.4 lets a mean over tokens do what is done to its channels next, and gets it wrong for a matrix.
        return (torch.matmul(self.rounding(input.unsqueeze(1)), operand) + bias).squeeze(1)


class ExportEmbedding(nn.Module):
    """A patch embedding as the sum of one product for each channel of the pixels: each has a step of its own."""

    weight: Tensor

    def __init__(self, layer: PackedConv2d) -> None:
        super().__init__()
        self.patch = layer.stride
        codes = unpack_codes(layer.mixq_codes, layer.weight_bits, torch.Size(layer.shape).numel()).view(layer.shape)
        grid = layer.input_grid
        products = patch_products(codes, layer.weight_grid, grid, layer.bias)
        self.channels = nn.ModuleList(
            ExportLinear(product, Rounding(grid.bits, Affine(1 / scale[None], zero_point[None])))
            for product, scale, zero_point in zip(products, grid.scale, grid.zero_point, strict=True)
        )
        # ViT and DeiT read `weight.dtype` and cast pixels to it (transformers 5.9 to 5.23).
        self.register_buffer("weight", torch.zeros(0), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        height, width = self.patch
        rows, columns = pixels.shape[-2] // height, pixels.shape[-1] // width
        patches = pixels[..., : rows * height, : columns * width]
        patches = patches.unflatten(-2, (rows, height)).unflatten(-1, (columns, width))
        patches = patches.permute(1, 0, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3)  # (C, B, patches, pixels of a patch)
        output: Tensor = sum(product(patches[channel]) for channel, product in enumerate(self.channels))
        return output.transpose(1, 2).unflatten(2, (rows, columns))


def grid_affine(grid: UniformGrid) -> Affine:
    """Return what brings values into the space of a grid's codes, before rounding."""
    return Affine(1 / grid.scale, grid.zero_point)


def round_to_integers(values: Tensor, low: int, high: int, scale: float = 1.0) -> Tensor:
    """Return scale * round(values / scale), its integers clamped to [low, high], which 8 bits hold.

    Exporters drop the bounds of `quantize_per_tensor` (torch 2.13, onnxscript 0.7), so the clamp is an operator of its
    own unless the 8 bits saturate at the same place.
    """
    signed = low < 0
    bounds = (-128, 127) if signed else (0, 255)
    if (low, high) != bounds:
        values = values.clamp(scale * low, scale * high)
    arguments = (scale, 0, *bounds, torch.int8 if signed else torch.uint8)
    operators = torch.ops.quantized_decomposed
    return operators.dequantize_per_tensor(operators.quantize_per_tensor(values, *arguments), *arguments)
