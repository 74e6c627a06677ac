# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import math

import pytest
import torch

from optimum_mixq.quant.softmax_grids import TwinUniform, Uniform


BITS = range(2, 9)


def slow_nearest(values, score, largest):
    exact = math.exp(score - largest)
    return min(values, key=lambda value: abs(value - exact))


def assert_rounds_to_the_nearest(grid, values):
    scores = 3 * torch.randn(6, 9, generator=torch.Generator().manual_seed(grid.bits), dtype=torch.float64)
    expected = [[slow_nearest(values, score, max(row)) for score in row] for row in scores.tolist()]
    torch.testing.assert_close(grid.exponentials(scores), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("bits", BITS)
def test_uniform_values_are_equal_steps_from_zero_to_one(bits):
    assert_rounds_to_the_nearest(Uniform(bits), [code / (2**bits - 1) for code in range(2**bits)])


@pytest.mark.parametrize("bits", BITS)
def test_twin_uniform_values_are_fine_steps_below_coarse_ones(bits):
    half = 2 ** (bits - 1)
    for setting in TwinUniform.settings(bits):
        fine = [code / half / 2**setting for code in range(half)]
        # A coarse value among the fine ones has no use: the fine code of its bits is taken.
        coarse = [code / half for code in range(1, half + 1) if code / half > fine[-1]]
        assert_rounds_to_the_nearest(TwinUniform(bits, setting), fine + coarse)


def test_the_scores_of_a_mask_become_zero():
    scores = torch.tensor([[1.0, -math.inf, 0.5]])
    for grid in (Uniform(4), TwinUniform(4, 3)):
        assert grid.softmax(scores)[0, 1] == 0 and grid.softmax(scores).isfinite().all()
