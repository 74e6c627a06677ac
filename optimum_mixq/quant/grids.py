# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The uniform grid that values are rounded to, as pure functions on tensors; softmax has others, in `softmax_grids/`.

A uniform grid has the values scale * (code - zero_point), code in 0..2^bits - 1. `fake_quantize` returns exactly what
`dequantize(quantize(x))` returns, with a straight-through gradient (Bengio et al., arXiv 1308.3432).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


# Scales are stored as float16: its smallest positive number, and its largest.
SMALLEST_SCALE, LARGEST_SCALE = 2.0**-24, 65504.0
# Zero points of activations are stored as int16.
LARGEST_ZERO_POINT = 32767


@dataclass(frozen=True)
class UniformGrid:
    """Values scale * (code - zero_point); `scale` and integral `zero_point` broadcast against what is quantized."""

    scale: Tensor
    zero_point: Tensor
    bits: int

    @property
    def largest_code(self) -> int:
        return 2**self.bits - 1


def uniform_grid(low: Tensor, high: Tensor, bits: int) -> UniformGrid:
    """Return the grid whose values span [low, high]: scale = (high - low) / (2^bits - 1), zero_point = -low / scale.

    Its scale is already rounded to float16, as it will be stored. Where all values are equal the grid spans from zero
    to that value. Where all are zero, as behind a ReLU, the scale is the least of the other grids: a larger one would
    outweigh these where scales are multiplied with weights.

    >>> grid = uniform_grid(torch.tensor(-1.0), torch.tensor(2.0), bits=2)
    >>> dequantize(torch.arange(4), grid).tolist()
    [-1.0, 0.0, 1.0, 2.0]
    """
    low, high = _compute_dtype(low), _compute_dtype(high)
    equal = high <= low
    low, high = torch.where(equal, low.clamp(max=0), low), torch.where(equal, high.clamp(min=0), high)
    largest_code = 2**bits - 1
    # A channel far from zero and nearly constant would need a zero point beyond int16: widen it.
    distance = torch.maximum(low.abs(), high.abs())
    scale = torch.maximum((high - low) / largest_code, distance / (LARGEST_ZERO_POINT - largest_code))
    least = torch.where(scale > 0, scale, torch.inf).min()
    scale = round_scale(torch.where(scale > 0, scale, torch.where(least.isfinite(), least, 1.0)))
    zero_point = torch.floor(-low / scale + 0.5).clamp(-LARGEST_ZERO_POINT, LARGEST_ZERO_POINT)
    return UniformGrid(scale, zero_point, bits)


def symmetric_grid(magnitude: Tensor, bits: int) -> UniformGrid:
    """Return the grid of [-magnitude, magnitude] with zero_point 2^(bits - 1): shifted codes are signed integers."""
    half = 2 ** (bits - 1)
    scale = _compute_dtype(magnitude) / (half - 1 if bits > 1 else 1)
    scale = round_scale(torch.where(scale > 0, scale, torch.ones_like(scale)))
    return UniformGrid(scale, torch.full_like(scale, half), bits)


def round_scale(scale: Tensor) -> Tensor:
    """Return the scale as float16 will store it, in the dtype it came in.

    One that is too large raises a ValueError on a CPU. Other devices would have to be waited for, at each candidate of
    a search: there it is infinite, and `require_storable` looks once.
    """
    if scale.device.type == "cpu":
        require_storable(scale)
    return scale.clamp(min=SMALLEST_SCALE).to(torch.float16).to(scale.dtype)


def require_storable(scale: Tensor) -> None:
    """Raise a ValueError if float16 holds no such scale. On the meta device there are no numbers to look at."""
    if not scale.is_meta and (scale > LARGEST_SCALE).any():
        raise ValueError(
            f"Expected steps of at most {LARGEST_SCALE:.0f}, found {float(scale.max()):.3g}: values this large "
            "cannot be quantized to so few bits. Check the model for overflowing activations."
        )


def quantize(values: Tensor, grid: UniformGrid) -> Tensor:
    """Return int32 codes in 0..2^bits - 1: floor(values / scale + zero_point + 1/2), clamped."""
    return round_to_codes(values, grid).to(torch.int32)


def round_to_codes(values: Tensor, grid: UniformGrid) -> Tensor:
    """Return the codes as floating-point numbers, which multiply faster where there is no integer kernel."""
    return _codes(_compute_dtype(values), grid)


def dequantize(codes: Tensor, grid: UniformGrid) -> Tensor:
    """Return scale * (codes - zero_point), in the dtype of the scale."""
    return (codes.to(grid.scale.dtype) - grid.zero_point) * grid.scale


def fake_quantize(values: Tensor, grid: UniformGrid) -> Tensor:
    """Return the grid's values nearest to `values`, in their dtype; the gradient passes where nothing was clamped."""
    exact = _compute_dtype(values)
    rounded = ((_codes(exact, grid) - grid.zero_point) * grid.scale).to(values.dtype)
    if not values.requires_grad:
        return rounded
    low, high = (0 - grid.zero_point) * grid.scale, (grid.largest_code - grid.zero_point) * grid.scale
    passing = torch.minimum(torch.maximum(exact, low), high).to(values.dtype)
    return passing + (rounded - passing).detach()


def require_finite(values: Tensor, name: str) -> None:
    """Raise a ValueError that names the layer if a value is NaN or infinite."""
    if not torch.isfinite(values).all():
        kind = "NaN" if torch.isnan(values).any() else "infinite"
        raise ValueError(
            f"Expected finite numbers in {name}, found {kind} values. Check the model's weights and the images; "
            "a float16 model may overflow: load it with dtype=torch.float32."
        )


def _codes(values: Tensor, grid: UniformGrid) -> Tensor:
    # One fused multiply-add with the reciprocal, then the floor, as packed layers do it: both round alike, to the bit.
    shifted = torch.addcmul(grid.zero_point + 0.5, values, 1 / grid.scale)
    return shifted.floor_().clamp_(0, grid.largest_code)


def _compute_dtype(values: Tensor) -> Tensor:
    """Return float64 as it is and everything else as float32: a scale in bfloat16 would have 8 bits."""
    return values if values.dtype == torch.float64 else values.float()
