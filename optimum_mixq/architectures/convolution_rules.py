# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Rules of relevance for convolutions of hidden states and for maps that are resized; `rules.py` has the others."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.nn.grad import conv2d_input

from optimum_mixq.architectures.base import Rule
from optimum_mixq.architectures.rules import passing


class PositiveConvolution(Function):
    """y = conv(x, W) + b with the z+ rule of `PositiveLinear`, which a convolution is at each place.

    What no positive contribution carries on goes evenly to all of an image's elements.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, *where: Any) -> Tensor:
        """Return the convolution; `where` are stride, padding, dilation and groups."""
        ctx.save_for_backward(input, weight)
        ctx.where = where
        return F.conv2d(input, weight, bias, *where)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        absolute, magnitude = input.abs(), weight.abs()
        product, total = F.conv2d(input, weight, None, *ctx.where), F.conv2d(absolute, magnitude, None, *ctx.where)
        even = 1e-6 * total + torch.finfo(total.dtype).tiny * 1e8
        per_output = relevance / (((product + total) / 2).clamp_(min=0) + even)
        signed, unsigned = (
            conv2d_input(input.shape, kernel, per_output, *ctx.where) for kernel in (weight, magnitude)
        )
        positive = (input * signed + absolute * unsigned) / 2
        left = relevance.sum((1, 2, 3), keepdim=True) - positive.sum((1, 2, 3), keepdim=True)
        return positive + left / input[0].numel(), None, None, *(None for _ in ctx.where)


class PositiveTransposedConvolution(Function):
    """y = conv_transpose(x, W) + b with the rule of `PositiveConvolution`."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.where = (stride, padding)
        return F.conv_transpose2d(input, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        absolute, magnitude = input.abs(), weight.abs()
        product, total = (
            F.conv_transpose2d(values, kernel, None, *ctx.where)
            for values, kernel in ((input, weight), (absolute, magnitude))
        )
        even = 1e-6 * total + torch.finfo(total.dtype).tiny * 1e8
        per_output = relevance / (((product + total) / 2).clamp_(min=0) + even)
        signed, unsigned = (F.conv2d(per_output, kernel, None, *ctx.where) for kernel in (weight, magnitude))
        positive = (input * signed + absolute * unsigned) / 2
        left = relevance.sum((1, 2, 3), keepdim=True) - positive.sum((1, 2, 3), keepdim=True)
        return positive + left / input[0].numel(), None, None, None, None


class Resizing(Function):
    """y = x resized, each output a weighted mean of inputs: the z+ rule, even where nothing is positive (`Mean`)."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, resize: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(input)
        ctx.resize = resize
        output = resize(input)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None]:
        positive = ctx.saved_tensors[0].clamp(min=0)
        positive = positive + 1e-6 * positive.mean((2, 3), keepdim=True) + torch.finfo(positive.dtype).tiny * 1e8
        with torch.enable_grad():
            leaf = positive.requires_grad_()
            resized = ctx.resize(leaf)
        (spread,) = torch.autograd.grad(resized, leaf, relevance / resized.detach())
        return positive.detach() * spread, None


def convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    """Follow the rule of a convolution of hidden states."""
    if not input.requires_grad:
        return None
    return PositiveConvolution.apply(input, weight, bias, stride, padding, dilation, groups)


def transposed_convolution(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, *others: Any
) -> Tensor | None:
    """Follow the rule of a transposed convolution of hidden states without further options, as none has them."""
    if not input.requires_grad:
        return None
    return PositiveTransposedConvolution.apply(input, weight, bias, stride, padding)


def resizing(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    **options: Any,
) -> Tensor | None:
    """Follow the rule of `F.interpolate`, by bilinear or nearest numbers."""
    if not input.requires_grad:
        return None
    chosen = {"size": size, "scale_factor": scale_factor, "mode": mode, "align_corners": align_corners}
    return Resizing.apply(input, partial(F.interpolate, **chosen, **options))


def pooling(input: Tensor, output_size: Any) -> Tensor | None:
    """Follow the rule of `F.adaptive_avg_pool2d`."""
    if not input.requires_grad:
        return None
    return Resizing.apply(input, partial(F.adaptive_avg_pool2d, output_size=output_size))


# What convolutional decoders call on hidden states.
DECODER_RULES: Mapping[Callable[..., Any], Rule] = {
    F.conv2d: convolution,
    F.conv_transpose2d: transposed_convolution,
    F.interpolate: resizing,
    F.adaptive_avg_pool2d: pooling,
    F.batch_norm: passing(F.batch_norm),
}
