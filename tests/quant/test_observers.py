# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import itertools

import pytest
import torch

from optimum_mixq.quant.grids import fake_quantize, uniform_grid
from optimum_mixq.quant.observers import (
    CLIP_RATIOS,
    RowObserver,
    minmax_grid,
    percentile_grid,
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


def slow_search(values, bits):
    """One channel, one candidate at a time: the upper end first, then the lower one."""
    low, high = values.min(), values.max()
    centre = torch.zeros(()) if low < 0 < high else (low + high) / 2
    for end in ("high", "low"):
        errors = []
        for ratio in CLIP_RATIOS:
            ends = (
                (low, centre + ratio * (high - centre)) if end == "high" else (centre + ratio * (low - centre), high)
            )
            error = sum(float((fake_quantize(v, uniform_grid(*ends, bits)) - v) ** 2) for v in values)
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
    for bits, per_channel in itertools.product((2, 3, 4), (True, False)):
        searched = (fake_quantize(rows, searched_grid(observation, bits, per_channel)) - rows).square().sum()
        plain = (fake_quantize(rows, minmax_grid(observation, bits, per_channel)) - rows).square().sum()
        assert searched <= plain


def test_percentiles_are_those_of_all_values():
    rows = torch.arange(1000.0)[:, None]
    grid = percentile_grid(observe(rows), 8, 0.9)
    assert float(grid.scale) == pytest.approx(800 / 255, rel=0.01)


def test_one_grid_for_all_channels_weighs_them_by_what_they_cost():
    rows = torch.stack([torch.linspace(-1, 1, 100), torch.linspace(-10, 10, 100)], 1)
    cheap_outlier = searched_grid(observe(rows), 3, per_channel=False, column_weight=torch.tensor([1.0, 0.0]))
    costly_outlier = searched_grid(observe(rows), 3, per_channel=False, column_weight=torch.tensor([0.0, 1.0]))
    assert cheap_outlier.scale < costly_outlier.scale


def test_eight_bit_weights_fit_int8_around_their_zero_point():
    weight = torch.randn(5, 20)
    grid = searched_weight_grid(weight, 8)
    assert (grid.zero_point == 128).all()
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
