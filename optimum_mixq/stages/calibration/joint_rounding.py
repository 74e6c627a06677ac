# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Rounds the weights of layers that read the same input, as one matrix: query, key and value share its moments."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from optimum_mixq.config import CalibrationOptions
from optimum_mixq.quant.arithmetics import arithmetic_of
from optimum_mixq.quant.grids import UniformGrid, round_to_codes
from optimum_mixq.quant.layers import QuantLinear
from optimum_mixq.stages.calibration.rounders import rounder_of
from optimum_mixq.stages.calibration.rounding import MomentAccumulator, correct_weight


def round_layers(
    layers: Sequence[nn.Linear],
    grid: UniformGrid,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    weight_bits: int,
    options: CalibrationOptions,
) -> list[QuantLinear]:
    """Return the layers, which read the same input on `grid`, with corrected and rounded weights."""
    weight, bias = join_layers(layers)
    moments = MomentAccumulator()
    for batch, target in zip(inputs, targets, strict=True):
        moments.observe(round_to_codes(batch, grid).to(torch.uint8), target)
    statistics = moments.result().of_values(grid)
    del moments
    if options.correction:
        weight, bias = correct_weight(weight, bias, statistics, options.ridge)
    # The bias takes up a rounding error's mean, so only its variance has to be kept small.
    moment = statistics.second_moment if bias is None else statistics.covariance
    scale = grid.scale.expand(weight.shape[1])
    arithmetic = arithmetic_of(options.arithmetic).of_layer(weight_bits)
    gridded, moment = arithmetic.to_grid(weight, scale), arithmetic.moments_on_grid(moment, scale)
    rounded = rounder_of(options).round(gridded, weight_bits, moment)
    if bias is not None:
        bias = bias + arithmetic.from_grid(gridded - rounded.values, scale) @ statistics.mean
    return _split(layers, arithmetic.from_grid(rounded.values, scale), bias, rounded.grid, grid, options.arithmetic)


def join_layers(layers: Sequence[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """Return the stacked weights (O, C) and biases (O,) of layers that read the same input.

    Where only some have a bias, the others' are zeros.
    """
    bias = None
    if any(layer.bias is not None for layer in layers):
        biases = (layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias for layer in layers)
        bias = torch.cat(list(biases))
    return torch.cat([layer.weight for layer in layers]), bias


def _split(
    layers: Sequence[nn.Linear],
    weight: Tensor,
    bias: Tensor | None,
    weight_grid: UniformGrid,
    input_grid: UniformGrid,
    arithmetic: str,
) -> list[QuantLinear]:
    quantized, start = [], 0
    for layer in layers:
        rows = slice(start, start + layer.out_features)
        start = rows.stop
        part = UniformGrid(weight_grid.scale[rows], weight_grid.zero_point[rows], weight_grid.bits)
        part_bias = None if bias is None or layer.bias is None else bias[rows].clone()
        made = QuantLinear(weight[rows].clone(), part_bias, part, input_grid, arithmetic)
        quantized.append(made.train(layer.training))
    return quantized
