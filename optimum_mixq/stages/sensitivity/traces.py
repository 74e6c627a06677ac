# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What enters and leaves each unit, and the gradients there, block by block from the last to the first.

The hidden states in front of each block are kept from one forward without a graph. Then each block runs once more,
alone and with a graph, and hands the gradients at its input to the block before it: memory holds one block's graph.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.architectures.describe import Architecture, Block
from optimum_mixq.architectures.replay import (
    BlockCall,
    captured_outputs,
    finish,
    lead_on,
    record_calls,
    record_hidden,
    run_block,
)
from optimum_mixq.architectures.watching import watched_units
from optimum_mixq.quant.bfloat16 import fast_products
from optimum_mixq.quant.grids import require_finite
from optimum_mixq.tasks import task_of


@dataclass(frozen=True)
class Traced:
    """A tensor inside the model, and for each probe the gradient there, of the same shape."""

    values: Tensor
    gradients: tuple[Tensor, ...]


@dataclass(frozen=True)
class UnitTrace:
    """The operands of a unit, and what each of its layers puts out."""

    operands: tuple[Traced, ...]  # (..., C) for layers; query and key, or attention weights and value
    outputs: tuple[Traced, ...]  # (..., O) of each layer; none for a matmul
    weights: tuple[Tensor, ...]  # (O, C) of each layer


def trace_units(
    model: PreTrainedModel, architecture: Architecture, pixels: Tensor, start: Callable[[Tensor], Sequence[Tensor]]
) -> Iterator[dict[str, UnitTrace]]:
    """Yield each block's traces, by unit name, for images (B, C, H, W).

    `start` returns the probes v for logits (B, ...), of their shape: gradients of v^T logits are traced.
    """
    watched: dict[str, Sequence[Tensor]] = {}
    with watched_units(model, watched.__setitem__):
        with torch.no_grad():
            calls = record_calls(model, architecture, pixels[:1])
            # What each block is given, and what it returns: the same tensor as the next one is given, unless apart.
            given, returned = list[Tensor](), [record_hidden(model, architecture, pixels)]
            for block in architecture.blocks:
                given.append(lead_on(model, architecture, calls, block, returned[-1]))
                returned.append(_run_block(model, block, given[-1], calls.blocks[block.name]))
                watched.clear()
        names = [block.name for block in architecture.blocks]
        read = {name: returned[names.index(name) + 1].requires_grad_() for name in (*architecture.taps, names[-1])}
        outputs = finish(model, architecture, calls, pixels[:1], returned.pop(), read)
        logits = task_of(model).logits(model, outputs)
        require_finite(logits, "the model's logits")
        found = _backward([logits], list(read.values()), [[probe] for probe in start(logits.detach())])
        direct = dict(zip(read, found, strict=True))
        del outputs, logits, read, found
        gradients = direct.pop(names[-1])
        for block in reversed(architecture.blocks):
            if block.name in direct:
                gradients = tuple(map(torch.add, gradients, direct.pop(block.name)))
            entering, before, call = given.pop().requires_grad_(), returned.pop(), calls.blocks[block.name]
            traces, gradients = _trace_block(model, block, call, entering, gradients, watched)
            if block.apart:
                before.requires_grad_()
                led = lead_on(model, architecture, calls, block, before)
                gradients = _backward([led], [before], [[gradient] for gradient in gradients])[0]
            with torch.no_grad():
                yield traces


def _trace_block(
    model: PreTrainedModel,
    block: Block,
    call: BlockCall,
    hidden: Tensor,
    gradients: tuple[Tensor, ...],
    watched: dict[str, Sequence[Tensor]],
) -> tuple[dict[str, UnitTrace], tuple[Tensor, ...]]:
    """Return the block's traces and the gradients at `hidden`, given those at its output."""
    layers = [name for unit in block.units for name in unit.modules]
    with captured_outputs(model, layers) as captured:
        output = _run_block(model, block, hidden, call)
    tensors = [hidden]
    for unit in block.units:
        tensors += [*watched[unit.name], *(captured[name][0] for name in unit.modules)]
    found = iter(_backward([output], tensors, [[gradient] for gradient in gradients]))
    before, traces = next(found), {}
    for unit in block.units:
        operands = tuple(_trace(tensor, next(found), hidden.dtype) for tensor in watched[unit.name])
        outputs = tuple(_trace(captured[name][0], next(found), hidden.dtype) for name in unit.modules)
        weights = tuple(model.get_parameter(f"{name}.weight").detach() for name in unit.modules)
        traces[unit.name] = UnitTrace(operands, outputs, weights)
    watched.clear()
    return traces, before


def _run_block(model: PreTrainedModel, block: Block, hidden: Tensor, call: BlockCall) -> Tensor:
    with fast_products(hidden):
        return run_block(model, block, hidden, call).to(hidden.dtype)


def _trace(values: Tensor, gradients: Sequence[Tensor], dtype: torch.dtype) -> Traced:
    return Traced(values.detach().to(dtype), tuple(gradient.to(dtype) for gradient in gradients))


def _backward(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], starts: Sequence[Sequence[Tensor]]
) -> list[tuple[Tensor, ...]]:
    """Return, for each of the inputs, its gradients, one for each start."""
    rows = [
        torch.autograd.grad(outputs, inputs, start, retain_graph=number < len(starts))
        for number, start in enumerate(starts, 1)
    ]
    return list(zip(*rows, strict=True))
