# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optimum_mixq.quant.arithmetics.column import column_operand
from optimum_mixq.quant.grids import dequantize, fake_quantize, quantize, uniform_grid
from optimum_mixq.stages.calibration.observers import (
    CLIP_RATIOS,
    TAIL_VALUES,
    WIDER_RATIOS,
    RowObserver,
    leveled_grid,
    minmax_grid,
    minmax_weight_grid,
    searched_grid,
    searched_weight_grid,
)


def observe(rows, batches=1, **options):
    observer = RowObserver("layer", **options)
    for batch in rows.chunk(batches):
        observer.observe(batch)
    return observer.result()


def gelu_rows(count=400, channels=6, seed=0):
    rows = torch.randn(count, channels, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.gelu(rows * torch.tensor([1.0, 2.0, 0.1, 5.0, 1.0, 3.0]))


def expected_loss_beyond(values, end):
    """What as many other values are expected to lose beyond `end`, if the largest are exponentially distributed."""
    largest = sorted(map(float, values))[-TAIL_VALUES:]
    count = len(largest) - 1
    excess = sum(value - largest[0] for value in largest[1:]) / count
    return count * 2 * excess**2 * math.exp(-(float(end) - largest[0]) / excess)


def slow_search(values, bits):
    """One channel, one candidate at a time: the upper end first, then the lower one."""
    low, high = values.min(), values.max()
    centre = torch.zeros(()) if low < 0 < high else (low + high) / 2
    for end in ("high", "low"):
        errors = []
        for ratio in CLIP_RATIOS + WIDER_RATIOS:
            ends = (
                (low, centre + ratio * (high - centre)) if end == "high" else (centre + ratio * (low - centre), high)
            )
            error = sum(float((fake_quantize(v, uniform_grid(*ends, bits)) - v) ** 2) for v in values)
            if ratio >= 1:
                error += expected_loss_beyond(*((values, ends[1]) if end == "high" else (-values, -ends[0])))
            errors.append((error, ends))
        low, high = min(errors, key=lambda pair: pair[0])[1]
    return uniform_grid(low, high, bits)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_vectorised_search_finds_what_a_slow_one_finds_channel_by_channel(bits):
    rows = gelu_rows(60)
    grid = searched_grid(observe(rows), bits)
    for channel in range(rows.shape[1]):
        expected = slow_search(rows[:, channel], bits)
        assert grid.scale[channel] == pytest.approx(float(expected.scale), rel=1e-3)
        assert grid.zero_point[channel] == expected.zero_point


def test_what_is_kept_does_not_grow_with_the_rows():
    observer = RowObserver("layer", sample_rows=64, tail=8)
    for seed in range(50):
        observer.observe(gelu_rows(100, seed=seed))
    result = observer.result()
    assert len(result.values) <= 2 * 64 + 2 * 8
    assert result.counts.sum(0).tolist() == pytest.approx([5000.0] * 6)


def test_extremes_are_exact_however_rare():
    rows = gelu_rows(5000)
    rows[1234, 2] = 77.0
    result = observe(rows, batches=10, sample_rows=64, tail=8)
    assert torch.equal(result.high, rows.amax(0)) and torch.equal(result.low, rows.amin(0))
    for channel in range(6):
        largest = rows[:, channel].topk(8).values
        assert set(largest.tolist()) <= set(result.values[:, channel].tolist())


def test_batches_make_no_difference_to_the_extremes_and_little_to_the_grid():
    rows = gelu_rows(3000)
    whole, parts = observe(rows), observe(rows, batches=30)
    assert torch.equal(whole.high, parts.high)
    assert torch.allclose(searched_grid(whole, 4).scale, searched_grid(parts, 4).scale, rtol=0.2)


def test_a_searched_grid_loses_less_than_minimum_and_maximum():
    rows = gelu_rows(2000)
    observation = observe(rows)
    for bits in (2, 3, 4):
        searched = (fake_quantize(rows, searched_grid(observation, bits)) - rows).square().sum()
        plain = (fake_quantize(rows, minmax_grid(observation, bits)) - rows).square().sum()
        assert searched <= plain


def test_a_search_where_the_largest_values_are_all_the_same_loses_no_more_than_minimum_and_maximum():
    rows = gelu_rows().clamp(max=0.2)  # so that the law of values beyond has no width
    observation = observe(rows)
    searched, plain = searched_grid(observation, 3), minmax_grid(observation, 3)
    lost, before = ((fake_quantize(rows, grid) - rows).square().sum(0) for grid in (searched, plain))
    assert (lost <= before * (1 + 1e-6)).all()


@pytest.mark.parametrize("distribution", [torch.distributions.Laplace(0.0, 1.0), torch.distributions.Normal(0.0, 1.0)])
def test_with_8_bits_a_searched_range_leaves_room_for_values_that_were_not_seen(distribution):
    torch.manual_seed(0)
    rows, others = distribution.sample((2000, 64)), distribution.sample((50_000, 64))
    observation = observe(rows)
    searched, seen = searched_grid(observation, 8), minmax_grid(observation, 8)
    assert (searched.scale >= seen.scale).float().mean() > 0.9
    errors = [(fake_quantize(others, grid) - others).square().mean() for grid in (searched, seen)]
    assert errors[0] < 0.9 * errors[1]


def test_an_end_that_no_value_passes_gets_no_room():
    rows = torch.cat([torch.rand(2000, 3), torch.ones(100, 3)])  # as GELU's output ends at -0.17
    assert torch.equal(searched_grid(observe(rows), 8).scale, minmax_grid(observe(rows), 8).scale)


@pytest.mark.parametrize("loudness", [1.0, 30.0, 1000.0])
def test_quiet_channels_are_raised_by_a_power_of_the_distance_to_the_largest(loudness):
    rows = torch.randn(300, 12, generator=torch.Generator().manual_seed(0))
    rows[:, 3] *= loudness
    rows[:, 5] = 0.0  # has the least scale, and says nothing
    observation = observe(rows)
    for bits, exponent in ((8, 0.3), (6, 0.15)):
        grid = minmax_grid(observation, bits)
        largest = max(float(scale) for channel, scale in enumerate(grid.scale) if channel != 5)
        expected = [float(scale) * (largest / float(scale)) ** exponent for scale in grid.scale]
        expected[5] = min(float(scale) for scale in grid.scale)
        leveled = leveled_grid(grid, observation)
        assert leveled.scale.tolist() == pytest.approx(expected, rel=2e-3)  # scales are float16
        span = fake_quantize(rows, grid)
        assert (fake_quantize(span, leveled) - span).abs().le(0.51 * leveled.scale + 1e-6).all()
    few = minmax_grid(observation, 4)
    assert leveled_grid(few, observation) is few


@given(st.floats(-50, 50), st.floats(0.01, 20), st.integers(5, 8))
def test_a_raised_grid_still_spans_what_it_spanned_wherever_zero_is(offset, width, bits):
    rows = torch.linspace(0, 1, 64)[:, None] * torch.tensor([width, 20.0]) + torch.tensor([offset, -10.0])
    observation = observe(rows)
    grid = minmax_grid(observation, bits)
    leveled = leveled_grid(grid, observation, 0.5)
    assert (leveled.scale >= grid.scale * 0.999).all()
    assert (fake_quantize(rows, leveled) - rows).abs().le(1.02 * leveled.scale).all()


def test_what_varies_keeps_25_steps_beside_the_loudest_channel_and_what_does_not_has_a_wider_one():
    rows = torch.randn(300, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e4, 1.0, 1e-4])
    rows[:, 2] += 5.0
    grid = minmax_grid(observe(rows), 8)
    growth = leveled_grid(grid, observe(rows), 0.5).scale / grid.scale
    assert growth.tolist()[:2] == pytest.approx([1, 10], rel=2e-3) and growth[2] > 100


def test_levelling_brings_the_product_closer_beside_a_loud_channel():
    generator = torch.Generator().manual_seed(0)
    rows, weight = torch.randn(300, 12, generator=generator), torch.randn(7, 12, generator=generator)
    rows[:, 3] *= 100
    observation, errors = observe(rows), []
    for grid in (minmax_grid(observation, 8), leveled_grid(minmax_grid(observation, 8), observation)):
        operand, scale = column_operand(weight, grid.scale)
        output = (quantize(rows, grid) - grid.zero_point) @ operand.T * scale[:, 0]
        errors.append(float((output - rows @ weight.T).square().mean()))
        assert dequantize(quantize(rows, grid), grid).sub(rows).abs().max() < grid.scale.max()
    assert errors[1] < 0.75 * errors[0]


def test_eight_bit_weights_fit_int8_around_their_zero_point():
    weight = torch.randn(5, 20)
    grid = searched_weight_grid(weight, 8)
    assert (grid.zero_point == 128).all() and torch.equal(grid.scale, minmax_weight_grid(weight, 8).scale)
    assert (fake_quantize(weight, grid) - weight).abs().amax() <= grid.scale.amax() * 0.51


def test_a_weight_search_minimises_the_weighted_error_of_each_row():
    weight, cost = torch.randn(4, 30), torch.rand(30)
    error = (fake_quantize(weight, searched_weight_grid(weight, 3, cost)) - weight).square() @ cost
    for ratio in CLIP_RATIOS:
        grid = uniform_grid(
            weight.amin(1, keepdim=True).clamp(max=0) * ratio, weight.amax(1, keepdim=True).clamp(min=0) * ratio, 3
        )
        assert (error <= (fake_quantize(weight, grid) - weight).square() @ cost + 1e-6).all()


def test_an_observer_that_saw_nothing_raises():
    with pytest.raises(ValueError, match="blocks.0.fc1 saw no data, so it has no range"):
        RowObserver("blocks.0.fc1").result()


def test_numbers_that_are_not_finite_raise_with_the_layers_name():
    with pytest.raises(ValueError, match=r"Expected finite numbers in the input of blocks.0.fc1, found NaN"):
        RowObserver("blocks.0.fc1").observe(torch.tensor([[1.0, float("nan")]]))
