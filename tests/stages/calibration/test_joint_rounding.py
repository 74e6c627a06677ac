# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from torch import nn

from optimum_mixq.config import MixQConfig
from optimum_mixq.quant.grids import fake_quantize, round_to_codes
from optimum_mixq.stages.calibration.joint_rounding import correct_layers, join_layers
from optimum_mixq.stages.calibration.observers import RowObserver, minmax_weight_grid, searched_grid
from optimum_mixq.stages.calibration.rounders import rounder_of


def problem(sizes=(6, 6, 4), channels=24, bias=True, bits=4):
    """Return layers, the grid of what they read, and two batches (200, channels) of it."""
    torch.manual_seed(0)
    layers = [nn.Linear(channels, size, bias=bias) for size in sizes]
    mixing = torch.randn(6, channels)  # channels go together, as a network's do
    inputs = [torch.randn(200, 6) @ mixing + 0.3 * torch.randn(200, channels) + 1 for _ in range(2)]
    observer = RowObserver("rows")
    for batch in inputs:
        observer.observe(batch)
    return layers, searched_grid(observer.result(), bits), inputs


@torch.no_grad()
def round_layers(layers, grid, inputs, targets, bits, options):
    return correct_layers(layers, grid, inputs, targets, options).round(bits, options, rounder_of(options))


def outputs_of(layers, inputs):
    return [torch.cat([layer(batch) for layer in layers], -1) for batch in inputs]


@pytest.mark.parametrize("arithmetic", ["column", "folded"])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_layers_rounded_together_are_what_each_is_when_rounded_alone(arithmetic, bias):
    layers, grid, inputs = problem(bias=bias)
    targets, options = outputs_of(layers, inputs), MixQConfig(arithmetic=arithmetic).calibration
    together = round_layers(layers, grid, inputs, targets, 3, options)
    start = 0
    for layer, joint in zip(layers, together, strict=True):
        own = [batch[:, start : start + layer.out_features] for batch in targets]
        (alone,) = round_layers([layer], grid, inputs, own, 3, options)
        start += layer.out_features
        assert joint.weight.shape == layer.weight.shape and (joint.bias is None) == (layer.bias is None)
        for batch in inputs:
            torch.testing.assert_close(joint(batch), alone(batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arithmetic", ["column", "folded"])
@torch.no_grad()
def test_layers_rounded_to_several_widths_are_what_each_width_gives_alone(arithmetic):
    layers, grid, inputs = problem()
    options = MixQConfig(arithmetic=arithmetic).calibration
    corrected, rounder = correct_layers(layers, grid, inputs, outputs_of(layers, inputs), options), rounder_of(options)
    together = corrected.round_to_each((3, 8, 5), options, rounder)  # 8 bits may have an arithmetic of their own
    for bits, found in together.items():
        for joint, alone in zip(found, corrected.round(bits, options, rounder), strict=True):
            assert joint.arithmetic.name == alone.arithmetic.name and joint.weight_bits == bits
            torch.testing.assert_close(joint.weight, alone.weight)
            torch.testing.assert_close(joint.bias, alone.bias)


@pytest.mark.parametrize("arithmetic", ["column", "folded"])
@torch.no_grad()
def test_rounded_layers_come_nearer_to_the_float_output_than_nearest_codes(arithmetic):
    layers, grid, inputs = problem(bits=8)  # so that it is the weights' rounding that shows
    targets = outputs_of(layers, inputs)

    def damage(**options):
        rounded = round_layers(
            layers, grid, inputs, targets, 3, MixQConfig(arithmetic=arithmetic, **options).calibration
        )
        found = outputs_of(rounded, inputs)
        return sum(float((a - b).square().sum()) for a, b in zip(found, targets, strict=True))

    assert damage() < 0.5 * damage(correction=False, compensation=False)


@torch.no_grad()
def test_without_correction_and_compensation_weights_are_nearest_codes_and_the_bias_takes_up_the_mean():
    layers, grid, inputs = problem(sizes=(5,))
    options = MixQConfig(correction=False, compensation=False, weight_search=False).calibration
    (rounded,) = round_layers(layers, grid, inputs, outputs_of(layers, inputs), 4, options)
    weight_grid = minmax_weight_grid(layers[0].weight, 4)
    torch.testing.assert_close(rounded.weight, fake_quantize(layers[0].weight, weight_grid))
    codes = torch.cat([round_to_codes(batch, grid) for batch in inputs])
    values = grid.scale * (codes - grid.zero_point)
    error = values @ (layers[0].weight - rounded.weight).T  # (400, 5)
    torch.testing.assert_close(rounded.bias, layers[0].bias + error.mean(0), rtol=1e-4, atol=1e-4)


def test_joined_layers_are_stacked_in_order():
    layers, _, inputs = problem(sizes=(3, 2))
    weight, bias = join_layers(layers)
    assert weight.shape == (5, 24)
    torch.testing.assert_close(inputs[0] @ weight.T + bias, outputs_of(layers, inputs)[0], rtol=1e-4, atol=1e-4)
    assert join_layers([nn.Linear(4, 2, bias=False)])[1] is None


@torch.no_grad()
def test_layers_without_a_bias_next_to_layers_with_one_stay_without():
    layers, grid, inputs = problem(bits=8)
    layers[1].bias = None  # as the key's in BEiT and Swinv2
    rounded = round_layers(layers, grid, inputs, outputs_of(layers, inputs), 8, MixQConfig().calibration)
    assert [layer.bias is None for layer in rounded] == [False, True, False]
    for layer, plain in zip(rounded, layers, strict=True):
        found, expected = layer(inputs[0]), plain(inputs[0])
        assert float((found - expected).norm() / expected.norm()) < 0.02
