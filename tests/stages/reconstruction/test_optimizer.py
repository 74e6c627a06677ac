# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import math

import pytest
import torch
from torch import nn

from optimum_mixq.quant.grids import UniformGrid
from optimum_mixq.quant.learned import LearnedLinear
from optimum_mixq.stages.reconstruction.budgets import Budget
from optimum_mixq.stages.reconstruction.optimizer import Learning, StepAdam, find_learning


def test_updates_are_those_of_adam_as_it_is_written_times_the_unit():
    """Algorithm 1 of arXiv 1412.6980, number by number in float64, with a cosine over the iterations."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    unit = torch.rand(3, 1, generator=generator, dtype=torch.float64) + 0.1
    gradients = torch.randn(5, 3, 2, generator=generator, dtype=torch.float64)
    parameter = nn.Parameter(start.clone())
    optimizer = StepAdam([Learning(parameter, unit, 0.03)], iterations=5, betas=(0.9, 0.99))
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    for row in range(3):
        for column in range(2):
            value, mean, square = float(start[row, column]), 0.0, 0.0
            for step in range(5):
                gradient = float(gradients[step, row, column])
                mean = 0.9 * mean + 0.1 * gradient
                square = 0.99 * square + 0.01 * gradient**2
                right = (mean / (1 - 0.9 ** (step + 1))) / math.sqrt(square / (1 - 0.99 ** (step + 1)))
                rate = 0.03 * (1 + math.cos(math.pi * step / 5)) / 2
                value -= rate * float(unit[row, 0]) * right
            assert float(parameter.detach()[row, column]) == pytest.approx(value, rel=1e-9)


def test_a_parameter_without_a_gradient_stays_and_gradients_are_forgotten():
    still, moving = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = StepAdam([Learning(still, torch.ones(2), 0.1), Learning(moving, torch.ones(2), 0.1)], 10)
    moving.grad = torch.tensor([1.0, 0.0])
    optimizer.step()
    assert torch.equal(still, torch.ones(2)) and moving.grad is None
    assert moving[0] < 1 and moving[1] == 1


@pytest.mark.parametrize("arithmetic", ["column", "folded"])
def test_a_weights_unit_is_what_one_code_more_adds_to_it(arithmetic):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, generator=generator)
    weight_grid = UniformGrid(torch.full((4, 1), 0.25), torch.full((4, 1), 4.0), 3)
    input_grid = UniformGrid(torch.tensor([0.5, 1.0, 2.0]), torch.zeros(3), 4)
    layer = LearnedLinear(weight, None, weight_grid, input_grid, arithmetic)
    found = {id(item.parameter): item for item in find_learning(nn.ModuleList([layer]), Budget(1))}
    unit = found[id(layer.weight)].unit
    gridded = layer.arithmetic.to_grid(layer.weight + unit, layer.input_grid.scale)
    assert torch.allclose(gridded - layer.gridded_weight(), torch.full((4, 3), 0.25))
    assert len(found) == 4  # weight, its step, the input's step and offset
