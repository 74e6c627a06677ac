# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Runs a model block by block: what calibration and sensitivity share.

The blocks of a model form a chain: each takes the hidden states that the one before returned, and next to them
arguments (masks, map sizes) that do not depend on the weights. `record_calls` keeps those. What stands between two
blocks, and what reads the hidden states of several, is run by the model's own forward, in which blocks return what
they are told to.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from optimum_mixq.architectures.describe import Architecture, Block


@dataclass(frozen=True)
class BlockCall:
    """The arguments of one block's forward beside its hidden states."""

    arguments: tuple[Any, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class ModelCalls:
    """What a model's own forward hands to its blocks beside hidden states, and what its last link returns."""

    blocks: dict[str, BlockCall]  # by block name
    returned: dict[str, Any]  # what each block returns for these images, by block name
    image: Tensor  # (1, C, H, W), one of them
    # What the last link of the chain returns next to hidden states, without tensors; None where it returns a bare one.
    others_returned: tuple[Any, ...] | None


class _Stop(Exception):
    """Ends a forward whose rest is not needed."""


def record_calls(model: PreTrainedModel, architecture: Architecture, pixel_values: Tensor) -> ModelCalls:
    """Run images (B, C, H, W) through the model and return what its blocks were called with."""
    calls: dict[str, BlockCall] = {}
    outputs: dict[str, Any] = {}
    returned: list[Any] = []
    hooks = []
    for block in architecture.blocks:

        def keep(_: Any, arguments: tuple, options: dict, name: str = block.name) -> None:
            calls[name] = BlockCall(arguments[1:], dict(options))

        def take(_: Any, __: tuple, output: Any, name: str = block.name) -> None:
            outputs[name] = output

        module = model.get_submodule(block.module)
        hooks += [module.register_forward_pre_hook(keep, with_kwargs=True), module.register_forward_hook(take)]
    last = _links(model, architecture)[-1]
    hooks.append(last.register_forward_hook(lambda _, __, output: returned.append(output)))
    try:
        model(pixel_values=pixel_values)
    finally:
        for hook in hooks:
            hook.remove()
    others = returned[0][1:] if isinstance(returned[0], tuple) else None
    others = None if others is None else tuple(None if isinstance(o, Tensor) else o for o in others)
    outputs = {} if architecture.is_plain else {name: _emptied(output) for name, output in outputs.items()}
    return ModelCalls(calls, outputs, pixel_values[:1], others)


def record_hidden(model: PreTrainedModel, architecture: Architecture, pixel_values: Tensor) -> Tensor:
    """Return what the first block is given, without running the blocks."""
    return _record_input(model, architecture.blocks[0], pixel_values)


def lead_on(
    model: PreTrainedModel, architecture: Architecture, calls: ModelCalls, block: Block, hidden: Tensor
) -> Tensor:
    """Return what a block is given, for the hidden states that the block before it returned."""
    if not block.apart:
        return hidden
    before = architecture.blocks[: architecture.blocks.index(block)]
    with _returning(model, calls, before, {before[-1].name: hidden}):
        return _record_input(model, block, calls.image)


def _record_input(model: PreTrainedModel, block: Block, pixel_values: Tensor) -> Tensor:
    """Return the hidden states that the model's own forward gives a block, which is left right there."""
    first = model.get_submodule(block.module)
    kept: list[Tensor] = []

    def keep(_: Any, arguments: tuple) -> None:
        kept.append(arguments[0])
        raise _Stop

    hook = first.register_forward_pre_hook(keep)
    try:
        model(pixel_values=pixel_values)
    except _Stop:
        return kept[0]
    finally:
        hook.remove()
    raise ValueError(f"The forward of {type(model).__name__} did not reach {block.name}.")


def run_block(model: PreTrainedModel, block: Block, hidden: Tensor, call: BlockCall) -> Tensor:
    """Return the block's hidden states, given those of the block before."""
    output = model.get_submodule(block.module)(hidden, *call.arguments, **call.options)
    return output[0] if isinstance(output, tuple) else output


def finish(
    model: PreTrainedModel,
    architecture: Architecture,
    calls: ModelCalls,
    pixel_values: Tensor,
    hidden: Tensor,
    taps: Mapping[str, Tensor] = MappingProxyType({}),
) -> Any:
    """Return the model's output for the hidden states after its last block.

    The model's own forward runs on a chain cut down to its last link, which hands out `hidden`: no block and no patch
    merging is reached. `pixel_values` (1, C, H, W) is any one image: it goes through the stem, and is forgotten.
    `taps` holds the hidden states after the architecture's taps, by block name.
    """
    if not architecture.is_plain:
        blocks = architecture.blocks
        with _returning(model, calls, blocks, {**taps, blocks[-1].name: hidden}):
            return model(pixel_values=pixel_values)
    last = _links(model, architecture)[-1]
    others = calls.others_returned

    def forward(*_: Any, **__: Any) -> Any:
        return hidden if others is None else (hidden, *others)

    parent, _, name = architecture.chain.rpartition(".")
    owner, chain = model.get_submodule(parent), model.get_submodule(architecture.chain)
    last.forward = forward
    setattr(owner, name, nn.ModuleList([last]))
    try:
        return model(pixel_values=pixel_values)
    finally:
        setattr(owner, name, chain)
        del last.forward


@contextmanager
def _returning(
    model: PreTrainedModel, calls: ModelCalls, blocks: Sequence[Block], hidden: Mapping[str, Tensor]
) -> Iterator[None]:
    """Have blocks return these hidden states, by block name, without running; the others return zeros of one image."""
    modules = []
    for block in blocks:
        template = calls.returned[block.name]
        given = hidden.get(block.name)
        if given is None:
            returned = template
        else:
            returned = (given, *template[1:]) if isinstance(template, tuple) else given
        modules.append(model.get_submodule(block.module))
        modules[-1].forward = partial(_hand_out, returned)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def _hand_out(returned: Any, *_: Any, **__: Any) -> Any:
    return returned


def _emptied(output: Any) -> Any:
    """Return what a block returned with zeros that take no memory for its hidden states, and no other tensors."""
    if isinstance(output, tuple):
        return (_emptied(output[0]), *(None if isinstance(other, Tensor) else other for other in output[1:]))
    return output.new_zeros(()).expand(output.shape)


def _links(model: PreTrainedModel, architecture: Architecture) -> list[nn.Module]:
    return list(model.get_submodule(architecture.chain))


@contextmanager
def replayed_outputs(model: PreTrainedModel) -> Iterator[Callable[[str, Sequence[Any]], None]]:
    """Yield a function `replay(module name, outputs)`: from then on that module returns the given outputs in turn.

    One output per batch: as long as every pass over the batches calls the module once per batch, it is given back
    what it would have computed again.
    """
    patched = []

    def replay(name: str, outputs: Sequence[Any]) -> None:
        turn = itertools.cycle(outputs)
        module = model.get_submodule(name)
        module.forward = lambda *_, **__: next(turn)
        patched.append(module)

    try:
        yield replay
    finally:
        for module in patched:
            del module.forward


@contextmanager
def captured_inputs(model: PreTrainedModel, names: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Append to the yielded dict's lists the first arguments of the named modules' forwards."""
    kept: dict[str, list[Tensor]] = {name: [] for name in names}

    def hook(name: str) -> RemovableHandle:
        def keep(_: Any, arguments: tuple) -> None:
            kept[name].append(arguments[0])

        return model.get_submodule(name).register_forward_pre_hook(keep)

    with _hooked(map(hook, names)):
        yield kept


@contextmanager
def captured_outputs(model: PreTrainedModel, names: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Append to the yielded dict's lists what the named modules' forwards return."""
    kept: dict[str, list[Tensor]] = {name: [] for name in names}

    def hook(name: str) -> RemovableHandle:
        return model.get_submodule(name).register_forward_hook(lambda _, __, output: kept[name].append(output))

    with _hooked(map(hook, names)):
        yield kept


@contextmanager
def _hooked(hooks: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove the hooks when the block ends."""
    with ExitStack() as stack:
        for hook in hooks:
            stack.callback(hook.remove)
        yield


def inputs_of(
    model: PreTrainedModel, block: Block, module: str, hidden: Iterable[Tensor], call: BlockCall
) -> list[tuple[Tensor, ...]]:
    """Return the arguments that one module of a block is given, batch by batch; the block is left right there."""
    found: list[tuple[Tensor, ...]] = []

    def keep(_: Any, arguments: tuple) -> None:
        found.append(arguments)
        raise _Stop

    hook = model.get_submodule(module).register_forward_pre_hook(keep)
    try:
        for states in hidden:
            with suppress(_Stop):
                run_block(model, block, states, call)
    finally:
        hook.remove()
    return found
