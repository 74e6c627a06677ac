# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Shows what enters each unit while a model's own forward runs: what counting, gradients and relevance start from."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from optimum_mixq.architectures.describe import Architecture, describe
from optimum_mixq.architectures.measuring import measuring


# The name under which the attention function of a watched model is registered.
WATCHED_ATTENTION = "mixq_relevance"

# Called with the name of a unit and the tensors that enter it, while the forward runs.
Watch = Callable[[str, Sequence[Tensor]], None]


@contextmanager
def watched_units(model: PreTrainedModel, watch: Watch) -> Iterator[None]:
    """Show `watch` what enters each unit, while backward carries plain gradients."""
    with observed(model, watch, attend_plainly):
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
        stack.enter_context(_replaced_attention(model, architecture, watch, attention))
        if watch is not None:
            stack.enter_context(_watched(model, architecture, watch))
        stack.enter_context(torch.enable_grad())
        yield


def attend_plainly(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    watch: Callable[[str, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Return attention's output (B, heads, T, head size), with the gradients of plain operations.

    `mask` is added to the scaled scores. `watch` is given the operands of "qk" and "av".
    """
    if watch is not None:
        watch("qk", query, key)
    scores = (query @ key.mT) * scaling
    weights = (scores if mask is None else scores + mask).softmax(-1)
    if watch is not None:
        watch("av", weights, value)
    return weights @ value


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

    AttentionInterface.register(WATCHED_ATTENTION, run)
    # Without a mask function of the same name transformers drops masks.
    AttentionMaskInterface.register(WATCHED_ATTENTION, eager_mask)
    model.set_attn_implementation(WATCHED_ATTENTION)
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
def _frozen(model: nn.Module) -> Iterator[None]:
    """Parameters carry no relevance: only activations may require gradients inside."""
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, requires in wanted.items():
            parameter.requires_grad_(requires)
