# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Has the weights and grids of one block learn, so that its output comes back to the float model's."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from optimum_mixq.architectures.block_run import BlockRun, place
from optimum_mixq.quant.attention import AttentionQuantizer
from optimum_mixq.quant.bfloat16 import fast_products
from optimum_mixq.quant.layers import QuantLinear
from optimum_mixq.quant.learned import LearnedAttention, LearnedLinear
from optimum_mixq.stages.reconstruction.budgets import Budget
from optimum_mixq.stages.reconstruction.losses import Loss
from optimum_mixq.stages.reconstruction.optimizer import StepAdam, find_learning


@dataclass(frozen=True)
class BlockErrors:
    """The loss on held-out images before and after a block learned."""

    before: float
    after: float

    @property
    def helped(self) -> bool:
        return self.after < self.before


def learn_block(
    run: BlockRun,
    expected: Sequence[Tensor],
    held: BlockRun,
    held_expected: Sequence[Tensor],
    loss: Loss,
    budget: Budget,
    generator: torch.Generator,
) -> BlockErrors:
    """Have a calibrated block learn, in place, and return what that did to the loss on held-out images.

    `expected` are the float model's hidden states after the block, batch by batch, those of `run` first in the loss's
    numbering of images, then those of `held`. What makes the held-out loss no smaller is undone.
    """
    first = sum(map(len, run.hidden))  # of the held-out images
    before = judge(held, held_expected, loss, first)
    calibrated = place_learned(run)
    block = run.model.get_submodule(run.block.module)
    start = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    _train(run, expected, loss, budget, generator)
    errors = BlockErrors(before, judge(held, held_expected, loss, first))
    if not errors.helped:
        block.load_state_dict(start)  # LayerNorms and what else the block has
        place(run.model, calibrated)
    return errors


def place_learned(run: BlockRun) -> dict[str, nn.Module]:
    """Put layers and attention that learn in the places of a block's calibrated ones, and return these.

    Layers that read the same tensor share its grid.
    """
    prefix = run.block.module
    calibrated: dict[str, nn.Module] = {
        f"{prefix}.{name}": module
        for name, module in run.model.get_submodule(prefix).named_modules()
        if isinstance(module, (QuantLinear, AttentionQuantizer))
    }
    place(run.model, {name: _learned(module) for name, module in calibrated.items()})
    for unit in run.block.units:
        layers = [run.model.get_submodule(name) for name in unit.modules]
        for layer in layers[1:]:
            layer.mixq_input_step, layer.mixq_input_offset = layers[0].mixq_input_step, layers[0].mixq_input_offset
    return calibrated


@torch.no_grad()
def judge(run: BlockRun, expected: Sequence[Tensor], loss: Loss, first: int) -> float:
    """Return the mean loss of the block as the packed model computes it; the first image has the number `first`."""
    losses, row = [], first  # read at the end: that waits for the device
    for found, wanted in zip(run.outputs(), expected, strict=True):
        rows = torch.arange(row, row + len(found), device=found.device)
        losses.append(loss.measure(run.block, rows, found, wanted).double() * len(found))
        row += len(found)
    return float(torch.stack(losses).sum()) / (row - first)


def _train(run: BlockRun, expected: Sequence[Tensor], loss: Loss, budget: Budget, generator: torch.Generator) -> None:
    hidden, wanted = torch.cat(list(run.hidden)), torch.cat(list(expected))
    block = run.model.get_submodule(run.block.module)
    with _learning(block), torch.enable_grad():
        optimizer = StepAdam(find_learning(block, budget), budget.iterations)
        for rows in draw_batches(len(hidden), budget, generator):
            rows = rows.to(hidden.device)
            part = BlockRun(run.model, run.block, run.call, [hidden[rows]])
            # What bfloat16 rounds away is little beside what grids of a few bits do. Each iteration has a context of
            # its own: within one, torch keeps the parameters that it has converted (2.13).
            with fast_products(hidden):
                found = part.outputs()[0]
            loss.measure(run.block, rows, found, wanted[rows]).backward()
            optimizer.step()


def draw_batches(images: int, budget: Budget, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the rows of each iteration's batch: all images in a random order, again and again."""
    order = torch.empty(0, dtype=torch.long)
    size = min(budget.batch_size, images)
    for _ in range(budget.iterations):
        while len(order) < size:
            order = torch.cat([order, torch.randperm(images, generator=generator)])
        yield order[:size]
        order = order[size:]


@contextmanager
def _learning(block: nn.Module) -> Iterator[None]:
    """Let the parameters of a block have gradients, and its quantized layers round with them."""
    learned = [module for module in block.modules() if isinstance(module, (LearnedLinear, LearnedAttention))]
    parameters = list(block.parameters())
    wanted = [parameter.requires_grad for parameter in parameters]
    for module in learned:
        module.train()
    block.requires_grad_(True)
    try:
        yield
    finally:
        for module in learned:
            module.eval()
        for parameter, before in zip(parameters, wanted, strict=True):
            parameter.requires_grad_(before)


def _learned(module: nn.Module) -> nn.Module:
    if isinstance(module, QuantLinear):
        return LearnedLinear.from_quant(module)
    assert isinstance(module, AttentionQuantizer)
    return LearnedAttention.from_quant(module)
