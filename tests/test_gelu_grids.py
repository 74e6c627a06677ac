# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The grids for GELU that a benchmark measures have the values that their papers give them."""

import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F


@pytest.fixture
def gelu_grids(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import gelu_grids

    yield gelu_grids
    del sys.modules["gelu_grids"]


def activations():
    return F.gelu(1.5 * torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


def assert_rounds(grid, values):
    expected = [min(values, key=lambda value: abs(value - exact)) for exact in activations().tolist()]
    torch.testing.assert_close(grid.round(activations()), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_one_uniform_grid_has_equal_steps(gelu_grids, bits):
    assert_rounds(gelu_grids.OneUniform(0.21, 1, bits), [0.21 * (code - 1) for code in range(2**bits)])


@pytest.mark.parametrize("bits", [3, 4, 6])
@pytest.mark.parametrize("shift", [0, 2, 5])
def test_twin_uniform_has_a_step_on_each_side_of_zero(gelu_grids, bits, shift):
    codes = range(2 ** (bits - 1))
    values = [-0.03 * code for code in codes] + [0.03 * 2**shift * code for code in codes]
    assert_rounds(gelu_grids.TwinUniform(0.03, shift, bits), values)


@pytest.mark.parametrize("bits", [3, 4, 6])
@pytest.mark.parametrize("numerator", [7, 37])
def test_shifted_log_is_nearest_in_the_logarithm(gelu_grids, bits, numerator):
    expected = []
    for exact in activations().tolist():
        octaves = math.log2(3.2 / (exact + 0.2))
        code = min(range(2**bits), key=lambda code: abs(code * numerator / 37 - octaves))
        expected.append(3.2 * 2 ** (-code * numerator / 37) - 0.2)
    found = gelu_grids.ShiftedLog(3.2, 0.2, numerator, bits).round(activations())
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("bits", [3, 6])
def test_the_candidate_of_least_error_is_chosen(gelu_grids, bits):
    values = activations()
    for kind, make in gelu_grids.KINDS.items():
        chosen = gelu_grids.choose(kind, values, bits)
        least = min(
            sum(
                (found - exact) ** 2 for found, exact in zip(grid.round(values).tolist(), values.tolist(), strict=True)
            )
            for grid in make(float(values.min()), float(values.max()), bits)
        )
        assert math.isclose(float((chosen.round(values) - values).square().sum()), least, rel_tol=1e-9)
