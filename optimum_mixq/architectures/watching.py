# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Shows what enters each unit while a model's own forward runs: what counting, gradients and relevance start from."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from optimum_mixq.architectures.attention import routed_attention
from optimum_mixq.architectures.describe import Architecture, Block, Unit, describe
from optimum_mixq.architectures.measuring import measuring


# The name under which the attention function of watched models is registered, and the attribute of an attention module
# in which it finds what to do.
WATCHED_ATTENTION, WATCHED = "mixq_relevance", "mixq_watched"

# Called with the name of a unit and the tensors that enter it, while the forward runs.
Watch = Callable[[str, Sequence[Tensor]], None]


@contextmanager
def watched_units(model: PreTrainedModel, watch: Watch) -> Iterator[None]:
    """Show `watch` what enters each unit, while backward carries plain gradients."""
    with observed(model, watch, attend):
        yield


@contextmanager
def observed(model: PreTrainedModel, watch: Watch | None, attention: Callable[..., Tensor]) -> Iterator[None]:
    """Run the model's attention by the given function, with gradients of activations alone, in eval mode.

    `watch` is given what enters each unit. On exit all is as it was, also after an error.
    """
    architecture = describe(model)
    with ExitStack() as stack:
        stack.enter_context(measuring(model))
        stack.enter_context(_frozen(model))
        stack.enter_context(_watched_attention(model, architecture, watch, attention))
        if watch is not None:
            stack.enter_context(_watched_layers(model, architecture, watch))
        stack.enter_context(torch.enable_grad())
        yield


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    watch: Callable[[str, Tensor, Tensor], None] | None = None,
    multiply: Callable[[Tensor, Tensor], Tensor] = torch.matmul,
    apply: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor] = lambda values, function: function(values),
) -> Tensor:
    """Return attention's output (B, heads, T, head size).

    `mask` is added to the scaled scores. `watch` is given the operands of "qk" and "av". `multiply` computes both
    products, and `apply` the softmax: with other functions than the plain ones backward carries what these want.
    """
    if watch is not None:
        watch("qk", query, key)

    def softmax(scores: Tensor) -> Tensor:  # (B, heads, T, T)
        scores = scores * scaling
        return (scores if mask is None else scores + mask).softmax(-1)

    weights = apply(multiply(query, key.mT), softmax)
    if watch is not None:
        watch("av", weights, value)
    return multiply(weights, value)


@dataclass(frozen=True)
class _Watched:
    """What the attention of one block is computed by, and who is shown its operands."""

    block: Block
    attention: Callable[..., Tensor]
    watch: Watch | None

    def show(self, product: str, left: Tensor, right: Tensor) -> None:
        if self.watch is not None:
            self.watch(self.block.unit(product).name, (left, right))


def run_watched_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Run what the attention module holds; the signature is that of transformers' attention interface."""
    watched: _Watched = getattr(module, WATCHED)
    with torch._C.DisableTorchFunction():
        scaling = query.size(-1) ** -0.5 if scaling is None else scaling
        output = watched.attention(query, key, value, attention_mask, scaling, watched.show)
        return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(WATCHED_ATTENTION, run_watched_attention)
# Without a mask function of the same name transformers drops masks.
AttentionMaskInterface.register(WATCHED_ATTENTION, eager_mask)


@contextmanager
def _watched_attention(
    model: PreTrainedModel, architecture: Architecture, watch: Watch | None, attention: Callable[..., Tensor]
) -> Iterator[None]:
    blocks = {model.get_submodule(block.attention): block for block in architecture.blocks if block.attention}
    before = {module: vars(module).get(WATCHED) for module in blocks}
    for module, block in blocks.items():
        setattr(module, WATCHED, _Watched(block, attention, watch))
    try:
        with routed_attention(model, WATCHED_ATTENTION):
            yield
    finally:
        for module, watched in before.items():
            if watched is None:
                delattr(module, WATCHED)
            else:
                setattr(module, WATCHED, watched)


@contextmanager
def _watched_layers(model: PreTrainedModel, architecture: Architecture, watch: Watch) -> Iterator[None]:
    hooks = []
    for unit in architecture.units:
        hooks += _watch_input(model, unit, watch)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _watch_input(model: PreTrainedModel, unit: Unit, watch: Watch) -> list[RemovableHandle]:
    """Show `watch` what the layers of a unit read: the same tensor, so that the first one tells.

    They are given a view of it: what else reads the tensor, such as the residual around them, is left out of what
    backward brings there.
    """
    views: list[Tensor] = []  # one for each layer that is yet to run, in whatever order the forward calls them

    def see(_: nn.Module, arguments: tuple) -> tuple:
        if not views:
            with torch._C.DisableTorchFunction():
                view = arguments[0].view_as(arguments[0])
            watch(unit.name, (view,))
            views.extend([view] * len(unit.modules))
        # None stays behind the last layer: it would keep the whole graph of this forward until the next one.
        return (views.pop(), *arguments[1:])

    return [model.get_submodule(name).register_forward_pre_hook(see) for name in unit.modules]


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
