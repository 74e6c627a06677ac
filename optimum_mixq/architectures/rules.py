# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The rules of layer-wise relevance propagation, one autograd function per equation.

The forward of each is the plain operation. Its backward takes the relevance R of the output where autograd has the
gradient, and returns the relevances of the inputs, which sum to R: every rule conserves, also where a denominator
vanishes, since what stabilises a denominator goes into the numerators too. The rules are those of Chefer et al.
(CVPR 2021, arXiv 2012.09838, section 3.1) where nothing else is said.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function


# Share of the sum of absolute contributions that is added to a denominator whose contributions have both signs.
STABILISER = 1e-2
# What the reference implementation of Chefer et al. adds instead; a stabiliser of zero stands for it.
REFERENCE_FLOOR = 1e-9

_stabiliser: ContextVar[float] = ContextVar("stabiliser", default=STABILISER)


@contextmanager
def stabilised(share: float) -> Iterator[None]:
    """Make the rules of the forwards inside the block use this stabiliser.

    Zero is the reference implementation's rule: relevance explodes where contributions nearly cancel, and is lost
    where they cancel altogether.
    """
    token = _stabiliser.set(share)
    try:
        yield
    finally:
        _stabiliser.reset(token)


class PositiveLinear(Function):
    """y = x W^T + b with the z+ rule, both signs of the input, no relevance for the bias.

    R_i = sum_j z_ij^+ / sum_i' z_i'j^+ R_j,   z_ij^+ = max(x_i W_ji, 0)
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        product = F.linear(input, weight)
        ctx.save_for_backward(input, weight, product)
        return product if bias is None else product + bias

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None, None]:
        input, weight, product = ctx.saved_tensors
        magnitude, absolute = weight.abs(), input.abs()
        # max(xw, 0) = (xw + |x||w|) / 2: one more product gives all sums of positive contributions.
        total = F.linear(absolute, magnitude)  # (..., O)
        # Where nothing is positive all inputs get the same.
        even = 1e-6 * total + torch.finfo(total.dtype).tiny * 1e8
        per_output = relevance / (((product + total) / 2).clamp_(min=0) + even)  # (..., O)
        signed, unsigned = per_output @ weight, per_output @ magnitude  # (..., C)
        positive = (input * signed + absolute * unsigned) / 2
        # The even share is what is left, and not sum_j of it: where contributions are nearly all negative, rounding of
        # (product + total) / 2 is as large as that sum itself.
        left = relevance.sum(-1, keepdim=True) - positive.sum(-1, keepdim=True)
        return positive + left / input.shape[-1], None, None


class MatrixProduct(Function):
    """y = a b with the z rule (x * grad), half of the relevance for each operand.

    R_a = 1/2 a * (S b^T),  R_b = 1/2 b * (a^T S),  S = R / y

    # Unlike the paper: contributions of both signs can nearly cancel, and R / y then explodes. Here contributions and
    # their sum are z + e sign(y) |z|, so no output spreads more than 1/e times its relevance, and all is conserved.
    """

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        product = left @ right
        ctx.save_for_backward(left, right, product)
        ctx.stabiliser = _stabiliser.get()
        return product

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, Tensor]:
        left, right, product = ctx.saved_tensors
        left_size, right_size = left.abs(), right.abs()
        total = left_size @ right_size
        signed = _over_stabilised(relevance / 2, product, total, ctx.stabiliser)  # S / 2
        even = _sign(product).mul_(signed).mul_(ctx.stabiliser)
        left_relevance = left * (signed @ right.mT) + left_size * (even @ right_size.mT)
        right_relevance = right * (left.mT @ signed) + right_size * (left_size.mT @ even)
        nothing = total == 0
        # No contribution at all: evenly to the left operand. On another device, asking whether there is any waits.
        if nothing.device.type != "cpu" or nothing.any():
            left_relevance += (relevance * nothing).sum(-1, keepdim=True) / left.shape[-1]
        return left_relevance, right_relevance


class GatedProduct(Function):
    """y = a * b, element by element: half of the relevance for each, as of `MatrixProduct` with a single contribution.

    R_a = R_b = R / 2: the uniform rule of AttnLRP (Achtibat et al., ICML 2024, arXiv 2402.05602, section 3.3.2).
    """

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        return left * right

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, Tensor]:
        return relevance / 2, relevance / 2


class ResidualSum(Function):
    """y = a + b: the z rule, then both parts scaled so that each gets in proportion to its absolute sum.

    R_a = a / (a + b) R, likewise R_b;  R_a <- R_a |A| / (|A| + |B|) sum(R) / A,  A = sum(R_a), B = sum(R_b)

    # Unlike the paper's code: the sums are taken per image, over all dimensions but the first. Over the whole batch an
    # image's relevance would depend on the images beside it.
    """

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(left, right)
        ctx.stabiliser = _stabiliser.get()
        return left + right

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, Tensor]:
        left, right = ctx.saved_tensors
        output, sizes = left + right, left.abs() + right.abs()
        share = _over_stabilised(relevance, output, sizes, ctx.stabiliser)
        even = ctx.stabiliser * _sign(output) * share
        half = torch.where(sizes == 0, relevance / 2, 0)  # for each, where both are zero
        parts = (left * share + left.abs() * even + half, right * share + right.abs() * even + half)
        dimensions = tuple(range(1, left.dim()))
        sums = [part.sum(dimensions, keepdim=True) for part in parts]
        magnitude = (sums[0].abs() + sums[1].abs()).clamp(min=torch.finfo(left.dtype).tiny)
        # |A| / (|A| + |B|) sum(R) / A = sign(A) (A + B) / (|A| + |B|)
        factor = (sums[0] + sums[1]) / magnitude
        left_relevance, right_relevance = (
            part * torch.sign(total) * factor for part, total in zip(parts, sums, strict=True)
        )
        return left_relevance, right_relevance


class Identity(Function):
    """y = f(x) for LayerNorm, GELU and scaling by a number: R_x = R_y."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.no_grad():
            output = function(input)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None]:
        return relevance, None


class Mean(Function):
    """y = mean of x over one dimension: the z+ rule with equal weights, even where nothing is positive."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, dimension: int) -> Tensor:
        ctx.save_for_backward(input)
        ctx.dimension = dimension
        return input.mean(dimension, keepdim=True)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None]:
        positive = ctx.saved_tensors[0].clamp(min=0)
        positive = (
            positive + 1e-6 * positive.mean(ctx.dimension, keepdim=True) + torch.finfo(positive.dtype).tiny * 1e8
        )
        return positive / positive.sum(ctx.dimension, keepdim=True) * relevance, None


class Padding(Function):
    """y = x with zeros around it: what relevance falls on the zeros goes evenly to the image's own elements."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, widths: tuple[int, ...]) -> Tensor:
        ctx.widths, ctx.shape = widths, input.shape
        return F.pad(input, list(widths))

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None]:
        inner = F.pad(relevance, [-width for width in ctx.widths])
        dimensions = tuple(range(1, inner.dim()))
        lost = (relevance.sum(dimensions) - inner.sum(dimensions)) / inner[0].numel()
        return inner + lost.view(-1, *[1] * (inner.dim() - 1)), None


class PixelConvolution(Function):
    """y = conv(x, W) + b at the pixels, with the z^B rule (Montavon et al. 2017): x lies in [low, high].

    R_i = x_i (W^T S)_i - low_i (W^{+T} S)_i - high_i (W^{-T} S)_i,  S = R / (W x - W^+ low - W^- high)

    `low` and `high` are each image's and channel's least and greatest pixel.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.stride = stride
        return F.conv2d(input, weight, bias, stride)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None, None, None]:
        input, weight = ctx.saved_tensors
        ones = torch.ones_like(input)
        low, high = ones * input.amin((2, 3), keepdim=True), ones * input.amax((2, 3), keepdim=True)
        operands = ((input, weight), (-low, weight.clamp(min=0)), (-high, weight.clamp(max=0)))
        # All contributions are positive. Even ones stabilise: each of the receptive field's elements gets the same.
        total = sum(F.conv2d(values, kernel, None, ctx.stride) for values, kernel in operands)
        sizes = F.conv2d(input.abs() + low.abs() + high.abs(), weight.abs(), None, ctx.stride)
        even = 1e-6 * sizes + torch.finfo(sizes.dtype).tiny * 1e8
        elements = torch.ones_like(weight)
        per_output = relevance / (total + even * elements[0].numel())
        result = _spread(even * per_output, elements, input, ctx.stride)
        for values, kernel in operands:
            result = result + values * _spread(per_output, kernel, input, ctx.stride)
        return result, None, None, None


def passing(function: Callable[..., Tensor]) -> Callable[..., Tensor | None]:
    """Return the rule of a function that hands all relevance on to its first argument: it scales, bends or normalises.

    Other arguments get none.
    """

    def rule(input: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
        if not input.requires_grad or kwargs.get("inplace"):
            return None
        return Identity.apply(input, lambda values: function(values, *args, **kwargs))

    return rule


def _spread(per_output: Tensor, kernel: Tensor, input: Tensor, stride: tuple[int, int]) -> Tensor:
    """Return the transposed convolution, as large as the input."""
    spread = F.conv_transpose2d(per_output, kernel, None, stride)
    return F.pad(spread, (0, input.shape[3] - spread.shape[3], 0, input.shape[2] - spread.shape[2]))


def _over_stabilised(relevance: Tensor, total: Tensor, absolute: Tensor, stabiliser: float) -> Tensor:
    """Return R / (z + e sign(z) |z|), for z a sum of contributions and |z| the sum of their absolute values."""
    if not stabiliser:
        return (relevance / torch.copysign(total.new_tensor(REFERENCE_FLOOR), total).add(total)).where(total != 0, 0)
    floor = torch.finfo(total.dtype).tiny * 1e8
    return relevance / torch.copysign(stabiliser * absolute + floor, total).add_(total)


def _sign(values: Tensor) -> Tensor:
    """Return 1 or -1; a zero has a sign too."""
    return torch.copysign(values.new_ones(()), values)
