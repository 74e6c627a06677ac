# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch

from optimum_mixq.quant.grids import fake_quantize
from optimum_mixq.stages.calibration.observers import searched_weight_grid
from optimum_mixq.stages.calibration.rounding import MomentAccumulator, correct_weight, round_compensated


def problem(rows=300, inputs=12, outputs=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(inputs, inputs, generator=generator, dtype=torch.float64)
    x = torch.randn(rows, inputs, generator=generator, dtype=torch.float64) @ mixing + 1.5
    weight = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
    bias = torch.randn(outputs, generator=generator, dtype=torch.float64)
    return x, weight, bias


def moments_of(x, y, batches=3):
    accumulator = MomentAccumulator()
    for part, target in zip(x.chunk(batches), y.chunk(batches), strict=True):
        accumulator.observe(part, target)
    return accumulator.result()


def slow_round_compensated(weight, grid, moment, damping):
    """GPTQ as its paper writes it: after each column, remove it from the inverse of the damped second moment."""
    order = moment.diagonal().argsort(descending=True).tolist()
    matrix = moment + damping * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype)
    remaining, result, left = weight.clone(), torch.empty_like(weight), list(order)
    while left:
        column = left.pop(0)
        active = [column, *left]
        inverse = torch.linalg.inv(matrix[active][:, active])
        result[:, column] = fake_quantize(remaining[:, [column]], grid)[:, 0]
        error = (remaining[:, column] - result[:, column]) / inverse[0, 0]
        for position, other in enumerate(left, start=1):
            remaining[:, other] -= error * inverse[0, position]
    return result


def test_moments_over_batches_are_those_of_all_rows():
    x, weight, _ = problem()
    y = x @ weight.T
    moments = moments_of(x, y)
    centred, target = x - x.mean(0), y - y.mean(0)
    assert torch.allclose(moments.covariance, centred.T @ centred / len(x))
    assert torch.allclose(moments.cross, centred.T @ target / len(x))


def test_compensated_rounding_is_that_of_the_paper():
    x, weight, _ = problem()
    moment = moments_of(x, x @ weight.T).second_moment
    grid = searched_weight_grid(weight, 3)
    for block in (4, 128):
        (rounded,) = round_compensated(weight, [grid], moment, damping=0.01, block=block)
        assert torch.allclose(rounded, slow_round_compensated(weight, grid, moment, 0.01))


def test_grids_rounded_together_are_what_each_is_alone():
    x, weight, _ = problem()
    moment = moments_of(x, x @ weight.T).second_moment
    grids = [searched_weight_grid(weight, bits) for bits in (2, 3, 5)]
    together = round_compensated(weight, grids, moment, block=4)
    for grid, rounded in zip(grids, together, strict=True):
        assert torch.allclose(rounded, slow_round_compensated(weight, grid, moment, 0.01))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_compensated_rounding_lies_on_the_grid_and_beats_rounding_to_nearest(bits):
    x, weight, _ = problem()
    moment = moments_of(x, x @ weight.T).second_moment
    grid = searched_weight_grid(weight, bits)
    (rounded,) = round_compensated(weight, [grid], moment)
    assert torch.equal(fake_quantize(rounded, grid), rounded)
    error, nearest = (
        ((candidate - weight) @ x.T).square().sum() for candidate in (rounded, fake_quantize(weight, grid))
    )
    assert error < nearest


def test_correction_solves_the_ridge_regression():
    x, weight, bias = problem()
    y = x @ weight.T + bias + 0.1 * torch.randn(len(x), 5, dtype=torch.float64)
    ridge = 0.3
    corrected, corrected_bias = correct_weight(weight, bias, moments_of(x, y), ridge)
    centred, target = x - x.mean(0), y - y.mean(0)
    system = centred.T @ centred / len(x)
    penalty = ridge * system.diagonal().mean() * torch.eye(12, dtype=torch.float64)
    right = centred.T @ (target - centred @ weight.T) / len(x)
    assert torch.allclose(corrected, weight + torch.linalg.solve(system + penalty, right).T)
    residual = y - x @ corrected.T - corrected_bias
    assert residual.mean(0).abs().max() < 1e-9


def test_a_layer_without_bias_gets_none_and_is_still_corrected():
    x, weight, _ = problem()
    noisy = x + 0.3 * torch.randn(x.shape, dtype=torch.float64)
    y = x @ weight.T
    corrected, bias = correct_weight(weight, None, moments_of(noisy, y), ridge=1e-3)
    assert bias is None
    assert (y - noisy @ corrected.T).square().mean() < (y - noisy @ weight.T).square().mean()


def test_nothing_is_corrected_where_nothing_is_wrong():
    x, weight, bias = problem()
    corrected, corrected_bias = correct_weight(weight, bias, moments_of(x, x @ weight.T + bias), ridge=1.0)
    assert torch.allclose(corrected, weight) and torch.allclose(corrected_bias, bias)


def test_inputs_that_are_always_zero_do_no_harm():
    x, weight, bias = problem()
    x[:, 3] = 0
    x[:, 4] = x[:, 5]
    moments = moments_of(x, x @ weight.T + bias)
    grid = searched_weight_grid(weight, 4)
    assert torch.isfinite(round_compensated(weight, [grid], moments.second_moment)[0]).all()
