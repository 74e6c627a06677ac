# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Runs a model block by block: what calibration and sensitivity share.

The blocks of a model form a chain: each takes the hidden states that the one before returned, to which some models
add position embeddings, and next to them arguments (masks, map sizes). `record_calls` keeps what comes beside hidden
states: none of it depends on the weights of blocks.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from optimum_mixq.architectures.describe import Architecture, Block
from optimum_mixq.architectures.registry import family_of


@dataclass(frozen=True)
class BlockCall:
    """The arguments of one block's forward beside its hidden states, and what the model adds to these before."""

    arguments: tuple[Any, ...]
    options: dict[str, Any]
    added: Tensor | None = None


@dataclass(frozen=True)
class ModelCalls:
    """What a model's own forward hands to its blocks beside hidden states, and what its last link returns."""

    blocks: dict[str, BlockCall]  # by block name
    # What the last link of the chain returns next to hidden states, without tensors; None where it returns a bare one.
    others_returned: tuple[Any, ...] | None


class _Stop(Exception):
    """Ends a forward whose rest is not needed."""


def record_calls(model: PreTrainedModel, architecture: Architecture, pixel_values: Tensor) -> ModelCalls:
    """Run images (B, C, H, W) through the model and return what its blocks were called with."""
    calls: dict[str, BlockCall] = {}
    returned: list[Any] = []
    hooks = []
    size = (pixel_values.shape[-2], pixel_values.shape[-1])
    added = (None, *family_of(model).added_after(model, size))
    for block, tensor in itertools.zip_longest(architecture.blocks, added):

        def keep(_: Any, arguments: tuple, options: dict, block: Block = block, added: Any = tensor) -> None:
            calls[block.name] = BlockCall(arguments[1:], dict(options), added)

        hooks.append(model.get_submodule(block.module).register_forward_pre_hook(keep, with_kwargs=True))
    last = _links(model, architecture)[-1]
    hooks.append(last.register_forward_hook(lambda _, __, output: returned.append(output)))
    try:
        model(pixel_values=pixel_values)
    finally:
        for hook in hooks:
            hook.remove()
    others = returned[0][1:] if isinstance(returned[0], tuple) else None
    return ModelCalls(calls, None if others is None else tuple(None if isinstance(o, Tensor) else o for o in others))


def record_hidden(model: PreTrainedModel, architecture: Architecture, pixel_values: Tensor) -> Tensor:
    """Return what the first block is given, without running the blocks."""
    first = model.get_submodule(architecture.blocks[0].module)
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
    raise ValueError(f"The forward of {type(model).__name__} did not reach its first block.")


def run_block(model: PreTrainedModel, block: Block, hidden: Tensor, call: BlockCall) -> Tensor:
    """Return the block's hidden states, given those of the block before."""
    hidden = hidden if call.added is None else hidden + call.added
    output = model.get_submodule(block.module)(hidden, *call.arguments, **call.options)
    return output[0] if isinstance(output, tuple) else output


def finish(
    model: PreTrainedModel, architecture: Architecture, calls: ModelCalls, pixel_values: Tensor, hidden: Tensor
) -> Any:
    """Return the model's output for the hidden states after its last block.

    The model's own forward runs on a chain whose links are all its last one, which hands out `hidden`: no block and no
    patch merging is reached, and what a model adds between links it adds before the last one. `pixel_values` (1, C, H, W) is any one image: it goes through the stem, and is forgotten.
    """
    last = _links(model, architecture)[-1]
    others = calls.others_returned

    def forward(*_: Any, **__: Any) -> Any:
        return hidden if others is None else (hidden, *others)

    parent, _, name = architecture.chain.rpartition(".")
    owner, chain = model.get_submodule(parent), model.get_submodule(architecture.chain)
    last.forward = forward
    setattr(owner, name, nn.ModuleList([last] * len(chain)))
    try:
        return model(pixel_values=pixel_values)
    finally:
        setattr(owner, name, chain)
        del last.forward


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
