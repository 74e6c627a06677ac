# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""`with relevance_rules(model):` makes the model's own forward record, and its backward carry relevance.

No modelling code is copied: attention goes through a registered attention function, activation modules through their
`forward`, and linear layers, LayerNorms, sums, products, pooling and padding through a `TorchFunctionMode`, which sees
the calls that the model makes while the mode is on.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from optimum_mixq.architectures.base import Rule
from optimum_mixq.architectures.describe import describe
from optimum_mixq.architectures.registry import family_of
from optimum_mixq.architectures.rules import (
    STABILISER,
    GatedProduct,
    Identity,
    MatrixProduct,
    Mean,
    Padding,
    PixelConvolution,
    PositiveLinear,
    ResidualSum,
    passing,
    stabilised,
)
from optimum_mixq.architectures.watching import Watch, attend, observed


# Attention with the rules for both products and none for softmax; a mask gets no relevance.
attend_with_rules = functools.partial(attend, multiply=MatrixProduct.apply, apply=Identity.apply)


@contextmanager
def relevance_rules(
    model: PreTrainedModel, watch: Watch | None = None, stabiliser: float = STABILISER
) -> Iterator[None]:
    """Make the model's forwards inside the block record the rules; on exit all is as it was, also after an error.

    `watch` is given what enters each unit: the tensor that its linear layers read, or the two operands of a matmul.
    `stabiliser` is that of sums whose terms have both signs (`rules.stabilised`).
    """
    with observed(model, watch, attend_with_rules), stabilised(stabiliser), ExitStack() as stack:
        for block in describe(model).blocks:
            for name in (*(activation.module for activation in block.activations), *block.passing):
                stack.enter_context(_identity_forward(model.get_submodule(name)))
        stack.enter_context(_Rules({**_RULES, **family_of(model).rules()}))
        yield


class _Rules(TorchFunctionMode):
    """Replaces what a forward calls on tensors that carry relevance; everything else runs as it is."""

    def __init__(self, rules: Mapping[Any, Rule]) -> None:
        super().__init__()
        self._rules = rules

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        rule = self._rules.get(func)
        if rule is not None:
            with torch._C.DisableTorchFunction():
                replaced = rule(*args, **kwargs)
            if replaced is not None:
                return replaced
        return func(*args, **kwargs)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    return PositiveLinear.apply(input, weight, bias) if input.requires_grad else None


def _layer_norm(input: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
    if not input.requires_grad:
        return None
    return Identity.apply(input, lambda values: F.layer_norm(values, *args, **kwargs))


def _add(left: Any, right: Any, **kwargs: Any) -> Tensor | None:
    tensors = isinstance(left, Tensor) and isinstance(right, Tensor)
    # A position embedding, or a mask, carries no relevance: there the plain sum hands all on.
    if not tensors or kwargs or left.shape != right.shape or not (left.requires_grad and right.requires_grad):
        return None
    return ResidualSum.apply(left, right)


def _divide(left: Any, right: Any, **kwargs: Any) -> Tensor | None:
    """A mean of two heads divides their sum by 2."""
    if not isinstance(left, Tensor) or isinstance(right, Tensor) or kwargs or not left.requires_grad:
        return None
    return Identity.apply(left, lambda values: values / right)


def _multiply(left: Any, right: Any, **kwargs: Any) -> Tensor | None:
    """A gate multiplies what it lets through; anything else that does not depend on the image scales it."""
    carries = [isinstance(values, Tensor) and values.requires_grad for values in (left, right)]
    if kwargs or not any(carries):
        return None
    if all(carries):
        return GatedProduct.apply(left, right) if left.shape == right.shape else None
    values, factor = (left, right) if carries[0] else (right, left)
    return Identity.apply(values, lambda values: values * factor)


def _mean(input: Tensor, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Tensor | None:
    if kwargs or not isinstance(dim, int) or not input.requires_grad:
        return None
    mean = Mean.apply(input, dim)
    return mean if keepdim else mean.squeeze(dim)


def _average_pool(input: Tensor, output_size: Any) -> Tensor | None:
    sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,)
    return Mean.apply(input, -1) if input.requires_grad and tuple(sizes) == (1,) else None


def _pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor | None:
    if not input.requires_grad or mode != "constant" or value:
        return None
    return Padding.apply(input, tuple(pad)) if any(pad) else input


def _convolution(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, *_: Any) -> Tensor | None:
    return PixelConvolution.apply(input, weight, bias, stride) if input.requires_grad else None


_ACTIVATIONS = (F.relu, F.gelu, F.silu, F.leaky_relu, F.elu, torch.relu, torch.tanh, torch.sigmoid, Tensor.tanh)
# The only contribution to a number's negative is that number.
_SIGNS = (torch.neg, Tensor.neg, Tensor.__neg__)

_RULES: dict[Any, Rule] = {
    **{function: passing(function) for function in (*_ACTIVATIONS, *_SIGNS)},
    F.linear: _linear,
    F.layer_norm: _layer_norm,
    torch.add: _add,
    Tensor.add: _add,
    Tensor.__add__: _add,
    torch.mul: _multiply,
    Tensor.mul: _multiply,
    Tensor.__mul__: _multiply,
    Tensor.__rmul__: _multiply,
    Tensor.__truediv__: _divide,
    Tensor.div: _divide,
    torch.div: _divide,
    torch.mean: _mean,
    Tensor.mean: _mean,
    F.adaptive_avg_pool1d: _average_pool,
    F.pad: _pad,
    F.conv2d: _convolution,
    torch.conv2d: _convolution,
}


@contextmanager
def _identity_forward(module: nn.Module) -> Iterator[None]:
    plain = module.forward

    def forward(input: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            return Identity.apply(input, plain) if input.requires_grad else plain(input)

    module.forward = forward
    try:
        yield
    finally:
        del module.forward
