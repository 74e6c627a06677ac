# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Rounds the weights of layers that read the same input, as one matrix: query, key and value share its moments."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from optimum_mixq.config import CalibrationOptions
from optimum_mixq.quant.arithmetics import Arithmetic, arithmetic_of
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
        return self.round_to_each([bits], options, rounder)[bits]

    def round_to_each(
        self, widths: Sequence[int], options: CalibrationOptions, rounder: Rounder
    ) -> dict[int, list[QuantLinear]]:
        """Return the layers with weights rounded to each of the widths."""
        alike, arithmetic = dict[str, list[int]](), arithmetic_of(options.arithmetic)
        for bits in widths:
            alike.setdefault(arithmetic.of_layer(bits).name, []).append(bits)
        parts = (self._round(arithmetic.of_layer(part[0]), part, options, rounder) for part in alike.values())
        return {bits: layers for part in parts for bits, layers in part.items()}

    def _round(
        self, arithmetic: Arithmetic, widths: Sequence[int], options: CalibrationOptions, rounder: Rounder
    ) -> dict[int, list[QuantLinear]]:
        statistics = self.statistics
        # The bias takes up a rounding error's mean, so only its variance has to be kept small.
        moment = statistics.second_moment if self.bias is None else statistics.covariance
        scale = self.grid.scale.expand(self.weight.shape[1])
        gridded, moment = arithmetic.to_grid(self.weight, scale), arithmetic.moments_on_grid(moment, scale)
        found = dict[int, list[QuantLinear]]()
        for bits, rounded in zip(widths, rounder.round_to_each(gridded, widths, moment), strict=True):
            bias = self.bias
            if bias is not None:
                bias = bias + arithmetic.from_grid(gridded - rounded.values, scale) @ statistics.mean
            weight = arithmetic.from_grid(rounded.values, scale)
            found[bits] = _split(self.layers, weight, bias, rounded.grid, self.grid, options.arithmetic)
        return found


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
