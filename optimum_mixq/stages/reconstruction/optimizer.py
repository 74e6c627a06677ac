# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Adam in units of what learns: how far a value moves is a matter of its grid's step, not of its own size."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from optimum_mixq.quant.learned import LearnedAttention, LearnedLinear
from optimum_mixq.stages.reconstruction.budgets import Budget


@dataclass
class Learning:
    """A parameter, the unit that its updates are counted in (broadcast against it), its rate, and Adam's moments."""

    parameter: nn.Parameter
    unit: Tensor
    rate: float

    def __post_init__(self) -> None:
        self.mean, self.square = torch.zeros_like(self.parameter), torch.zeros_like(self.parameter)


class StepAdam:
    """Adam (Kingma and Ba, arXiv 1412.6980) whose update of a parameter is multiplied by its unit.

    That is Adam on the parameter divided by its unit: the size of gradients does not matter to it.
    """

    def __init__(self, learning: list[Learning], iterations: int, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        self.learning, self.iterations, self.betas, self.done = learning, iterations, betas, 0

    @torch.no_grad()
    def step(self) -> None:
        """Move all parameters that have a gradient, and forget the gradients."""
        first, second = self.betas
        share = (1 + math.cos(math.pi * self.done / self.iterations)) / 2
        self.done += 1
        for item in self.learning:
            gradient = item.parameter.grad
            if gradient is None:
                continue
            item.mean.lerp_(gradient, 1 - first)
            item.square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
            mean = item.mean / (1 - first**self.done)
            root = (item.square / (1 - second**self.done)).sqrt_()
            # Where no gradient came yet, both are zero.
            update = mean.div_(root.clamp_(min=torch.finfo(root.dtype).tiny)).mul_(item.unit)
            item.parameter.sub_(update, alpha=share * item.rate)
            item.parameter.grad = None


def find_learning(block: nn.Module, budget: Budget) -> list[Learning]:
    """Return all that learns in a block, each parameter once, with units and rates."""
    found: dict[int, Learning] = {}
    for module in block.modules():
        parts = _parts_of(module, budget)
        for item in parts:
            found.setdefault(id(item.parameter), item)
    return list(found.values())


def _parts_of(module: nn.Module, budget: Budget) -> Iterator[Learning]:
    if isinstance(module, LearnedLinear):
        yield from _parts_of_linear(module, budget)
    elif isinstance(module, LearnedAttention):
        for name in ("query", "key", "value"):
            step, offset = module.get_parameter(f"mixq_{name}_step"), module.get_parameter(f"mixq_{name}_offset")
            yield Learning(step, step.detach().clone(), budget.grid_rate)
            yield Learning(offset, step.detach().clone(), budget.grid_rate)
    else:
        for parameter in module.parameters(recurse=False):
            yield _part_of_other(parameter, budget)


def _parts_of_linear(layer: LearnedLinear, budget: Budget) -> Iterator[Learning]:
    steps = layer.weight_grid.scale.detach().expand_as(layer.weight)  # (O, C), of what the grid is applied to
    yield Learning(layer.weight, layer.arithmetic.from_grid(steps, layer.input_grid.scale).clone(), budget.weight_rate)
    for parameter in (layer.mixq_weight_step, layer.mixq_input_step):
        yield Learning(parameter, parameter.detach().clone(), budget.grid_rate)
    yield Learning(layer.mixq_input_offset, layer.mixq_input_step.detach().clone(), budget.grid_rate)
    if layer.bias is not None:
        yield _part_of_other(layer.bias, budget)


def _part_of_other(parameter: nn.Parameter, budget: Budget) -> Learning:
    return Learning(parameter, parameter.detach().square().mean().sqrt(), budget.other_rate)
