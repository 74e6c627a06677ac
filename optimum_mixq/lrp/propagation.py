# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""`with relevance_rules(model):` makes the model's own forward record, and its backward carry relevance.

No modelling code is copied: attention goes through a registered attention function, activation modules through their
`forward`, and linear layers, LayerNorms, residual sums, pooling and padding through a `TorchFunctionMode`, which sees
the calls that the model makes while the mode is on.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from optimum_mixq.architectures import Architecture, describe
from optimum_mixq.lrp.rules import (
    Identity,
    Mean,
    Padding,
    PixelConvolution,
    PositiveLinear,
    ResidualSum,
    attend,
    attend_plainly,
)
from optimum_mixq.measuring import measuring


RELEVANCE_ATTENTION = "mixq_relevance"

# Called with the name of a unit and the tensors that enter it, while the forward runs.
Watch = Callable[[str, Sequence[Tensor]], None]


@contextmanager
def relevance_rules(model: PreTrainedModel, watch: Watch | None = None) -> Iterator[None]:
    """Make the model's forwards inside the block record the rules; on exit all is as it was, also after an error.

    `watch` is given what enters each unit: the tensor that its linear layers read, or the two operands of a matmul.
    """
    with _observed(model, watch, attend), ExitStack() as stack:
        for block in describe(model).blocks:
            for name in block.activations:
                stack.enter_context(_identity_forward(model.get_submodule(name)))
        stack.enter_context(_Rules())
        yield


@contextmanager
def watched_units(model: PreTrainedModel, watch: Watch) -> Iterator[None]:
    """Show `watch` what enters each unit, as `relevance_rules` does, while backward carries plain gradients."""
    with _observed(model, watch, attend_plainly):
        yield


@contextmanager
def _observed(model: PreTrainedModel, watch: Watch | None, attention: Callable[..., Tensor]) -> Iterator[None]:
    architecture = describe(model)
    with ExitStack() as stack:
        stack.enter_context(measuring(model))
        stack.enter_context(_frozen(model))
        stack.enter_context(_replaced_attention(model, architecture, watch, attention))
        if watch is not None:
            stack.enter_context(_watched(model, architecture, watch))
        stack.enter_context(torch.enable_grad())
        yield


class _Rules(TorchFunctionMode):
    """Replaces what a forward calls on tensors that carry relevance; everything else runs as it is."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        rule = _RULES.get(func)
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
    """The mean of DeiT's two heads divides their sum by 2."""
    if not isinstance(left, Tensor) or isinstance(right, Tensor) or kwargs or not left.requires_grad:
        return None
    return Identity.apply(left, lambda values: values / right)


def _average_pool(input: Tensor, output_size: Any) -> Tensor | None:
    sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,)
    return Mean.apply(input, -1) if input.requires_grad and tuple(sizes) == (1,) else None


def _pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor | None:
    if not input.requires_grad or mode != "constant" or value:
        return None
    return Padding.apply(input, tuple(pad)) if any(pad) else input


def _convolution(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, *_: Any) -> Tensor | None:
    return PixelConvolution.apply(input, weight, bias, stride) if input.requires_grad else None


def _keep(function: Callable[..., Tensor]) -> Callable[..., Tensor | None]:
    """Return the rule of an activation function, which hands on what it gets: heads may have one of any kind."""

    def rule(input: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
        if not input.requires_grad or kwargs.get("inplace"):
            return None
        return Identity.apply(input, lambda values: function(values, *args, **kwargs))

    return rule


_ACTIVATIONS = (F.relu, F.gelu, F.silu, F.leaky_relu, F.elu, torch.relu, torch.tanh, torch.sigmoid, Tensor.tanh)

_RULES: dict[Any, Callable[..., Tensor | None]] = {
    **{function: _keep(function) for function in _ACTIVATIONS},
    F.linear: _linear,
    F.layer_norm: _layer_norm,
    torch.add: _add,
    Tensor.add: _add,
    Tensor.__add__: _add,
    Tensor.__truediv__: _divide,
    Tensor.div: _divide,
    torch.div: _divide,
    F.adaptive_avg_pool1d: _average_pool,
    F.pad: _pad,
    F.conv2d: _convolution,
    torch.conv2d: _convolution,
}


@contextmanager
def _replaced_attention(
    model: PreTrainedModel, architecture: Architecture, watch: Watch | None, attention: Callable[..., Tensor]
) -> Iterator[None]:
    before = model.config._attn_implementation
    names = {model.get_submodule(block.attention): block.name for block in architecture.blocks if block.attention}

    def run(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        with torch._C.DisableTorchFunction():
            scaling = query.size(-1) ** -0.5 if scaling is None else scaling
            output = attention(query, key, value, attention_mask, scaling, _watch_products(names[module], watch))
            return output.transpose(1, 2).contiguous(), None

    AttentionInterface.register(RELEVANCE_ATTENTION, run)
    # Without a mask function of the same name transformers drops masks.
    AttentionMaskInterface.register(RELEVANCE_ATTENTION, eager_mask)
    model.set_attn_implementation(RELEVANCE_ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _watch_products(block: str, watch: Watch | None) -> Callable[[str, Tensor, Tensor], None] | None:
    if watch is None:
        return None
    return lambda product, left, right: watch(f"{block}.{product}", (left, right))


@contextmanager
def _watched(model: PreTrainedModel, architecture: Architecture, watch: Watch) -> Iterator[None]:
    hooks = []
    for unit in architecture.units:
        if unit.modules:  # its layers read the same tensor: the first one tells

            def see(_: nn.Module, arguments: tuple, name: str = unit.name) -> None:
                watch(name, arguments[:1])

            hooks.append(model.get_submodule(unit.modules[0]).register_forward_pre_hook(see))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


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


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Parameters carry no relevance: only activations may require gradients inside."""
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, requires in wanted.items():
            parameter.requires_grad_(requires)
