# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Rounds the weights of layers that read the same input, as one matrix: query, key and value share its moments."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from optimum_mixq.config import CalibrationOptions
from optimum_mixq.quant.arithmetics import arithmetic_of
from optimum_mixq.quant.grids import UniformGrid, round_to_codes
from optimum_mixq.quant.layers import QuantLinear
from optimum_mixq.stages.calibration.rounders import Rounder
from optimum_mixq.stages.calibration.rounding import InputMoments, MomentAccumulator, correct_weight


@dataclass(frozen=True)
class CorrectedLayers:
    """Layers that read the same input on a grid, with their weights moved to mend what that does to their output."""

    layers: tuple[nn.Linear, ...]
    grid: UniformGrid
    weight: Tensor  # (O, C), of all layers, one below the other
    bias: Tensor | None  # (O,)
    statistics: InputMoments

    def round(self, bits: int, options: CalibrationOptions, rounder: Rounder) -> list[QuantLinear]:
        """Return the layers with rounded weights."""
        statistics, bias = self.statistics, self.bias
        # The bias takes up a rounding error's mean, so only its variance has to be kept small.
        moment = statistics.second_moment if bias is None else statistics.covariance
        scale = self.grid.scale.expand(self.weight.shape[1])
        arithmetic = arithmetic_of(options.arithmetic).of_layer(bits)
        gridded, moment = arithmetic.to_grid(self.weight, scale), arithmetic.moments_on_grid(moment, scale)
        rounded = rounder.round(gridded, bits, moment)
        if bias is not None:
            bias = bias + arithmetic.from_grid(gridded - rounded.values, scale) @ statistics.mean
        weight = arithmetic.from_grid(rounded.values, scale)
        return _split(self.layers, weight, bias, rounded.grid, self.grid, options.arithmetic)


def correct_layers(
    layers: Sequence[nn.Linear],
    grid: UniformGrid,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    options: CalibrationOptions,
) -> CorrectedLayers:
    """Return layers that read the same input on `grid`, ready to be rounded to any number of bits."""
    weight, bias = join_layers(layers)
    moments = MomentAccumulator()
    for batch, target in zip(inputs, targets, strict=True):
        moments.observe(round_to_codes(batch, grid).to(torch.uint8), target)
    statistics = moments.result().of_values(grid)
    if options.correction:
        weight, bias = correct_weight(weight, bias, statistics, options.ridge)
    return CorrectedLayers(tuple(layers), grid, weight, bias, statistics)


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
