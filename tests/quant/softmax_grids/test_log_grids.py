# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import math

import pytest
import torch

from optimum_mixq.quant.softmax_grids import AdaptiveLog, Log2, LogSqrt2


BITS = range(2, 9)
STEPS = {2: 2, 3: 2, 4: 2, 5: 2, 6: 4, 7: 8, 8: 16}  # per octave, of log-sqrt2


def grids(bits):
    """Return every logarithmic grid of so many bits, with its steps per octave."""
    adaptive = [(AdaptiveLog(bits, setting), 37 / setting) for setting in AdaptiveLog.settings(bits)]
    return [(LogSqrt2(bits), STEPS[bits]), (Log2(bits), 1), *adaptive]


def slow_power(score, largest, bits, steps):
    code = math.floor(-steps * math.log2(math.exp(score - largest)) + 0.5)
    return 0.0 if code >= 2**bits - 1 else 2 ** (-code / steps)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_powers_are_those_of_the_equation(bits, dtype):
    scores = 3 * torch.randn(4, 7, generator=torch.Generator().manual_seed(bits)).to(dtype)
    for grid, steps in grids(bits):
        expected = [[slow_power(score, max(row), bits, steps) for score in row] for row in scores.tolist()]
        torch.testing.assert_close(grid.exponentials(scores), torch.tensor(expected, dtype=dtype))


@pytest.mark.parametrize("bits", BITS)
def test_the_last_code_is_zero_and_the_one_before_it_is_not(bits):
    for grid, steps in grids(bits):
        last = (2**bits - 1) * math.log(2) / steps  # the score, below the maximum, of the last code
        powers = grid.exponentials(torch.tensor([0.0, -last, math.log(2) / steps - last, -1e4]))
        assert powers.tolist() == pytest.approx([1, 0, 2 ** -((2**bits - 2) / steps), 0])


@pytest.mark.parametrize("bits", BITS)
def test_adaptive_bases_reach_one_octave_at_least_and_24_at_most(bits):
    reaches = [(2**bits - 2) / AdaptiveLog(bits, setting).steps for setting in AdaptiveLog.settings(bits)]
    assert 1 <= min(reaches) and max(reaches) <= 24 and len(reaches) >= 3
