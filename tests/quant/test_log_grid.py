# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import math

import pytest
import torch

from optimum_mixq.quant.log_grid import log_grid_powers, quantized_softmax


BITS = range(2, 9)
STEPS = {2: 2, 3: 2, 4: 2, 5: 2, 6: 4, 7: 8, 8: 16}  # per octave


def slow_power(score, largest, bits):
    code = math.floor(-STEPS[bits] * math.log2(math.exp(score - largest)) + 0.5)
    return 0.0 if code >= 2**bits - 1 else 2 ** (-code / STEPS[bits])


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_powers_are_those_of_the_equation(bits, dtype):
    scores = 3 * torch.randn(4, 7, generator=torch.Generator().manual_seed(bits)).to(dtype)
    expected = [[slow_power(score, max(row), bits) for score in row] for row in scores.tolist()]
    torch.testing.assert_close(log_grid_powers(scores, bits), torch.tensor(expected, dtype=dtype))


@pytest.mark.parametrize("bits", BITS)
def test_rows_of_quantized_softmax_are_powers_that_sum_to_one(bits):
    scores = 10 * torch.randn(50, 9, generator=torch.Generator().manual_seed(bits))
    weights, powers = quantized_softmax(scores, bits), log_grid_powers(scores, bits)
    assert torch.allclose(weights.sum(-1), torch.ones(50))
    torch.testing.assert_close(weights * powers.sum(-1, keepdim=True), powers)


@pytest.mark.parametrize("bits", BITS)
def test_the_last_code_is_zero_and_the_one_before_it_is_not(bits):
    last = (2**bits - 1) * math.log(2) / STEPS[bits]  # the score, below the maximum, of the last code
    powers = log_grid_powers(torch.tensor([0.0, -last, math.log(2) / STEPS[bits] - last, -1e4]), bits)
    assert powers.tolist() == pytest.approx([1, 0, 2 ** -((2**bits - 2) / STEPS[bits]), 0])


def test_the_gradient_is_that_of_the_exponential():
    scores = torch.tensor([0.3, -1.2, 2.0], requires_grad=True)
    log_grid_powers(scores, 3).sum().backward()
    smooth = torch.exp(scores.detach() - 2.0)
    torch.testing.assert_close(scores.grad, smooth)


def test_scores_are_left_as_they_are():
    scores = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    before = scores.clone()
    log_grid_powers(scores, 4)
    assert torch.equal(scores, before)
