# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Rounds the weights of layers that read the same input, as one matrix: query, key and value share its moments."""

import torch
from torch import Tensor, nn

from optimum_mixq.config import MixQConfig
from optimum_mixq.quant.grids import UniformGrid, fake_quantize, round_to_codes
from optimum_mixq.quant.layers import QuantLinear, layer_arithmetic
from optimum_mixq.stages.calibration.observers import searched_weight_grid
from optimum_mixq.stages.calibration.rounding import MomentAccumulator, correct_weight, round_compensated


def round_layers(
    layers: list[nn.Linear],
    grid: UniformGrid,
    inputs: list[Tensor],
    targets: list[Tensor],
    weight_bits: int,
    config: MixQConfig,
) -> list[QuantLinear]:
    """Return the layers, which read the same input on `grid`, with corrected and rounded weights."""
    weight, bias = join_layers(layers)
    moments = MomentAccumulator()
    for batch, target in zip(inputs, targets, strict=True):
        moments.observe(round_to_codes(batch, grid).to(torch.uint8), target)
    statistics = moments.result().of_values(grid)
    del moments
    if config.correction:
        weight, bias = correct_weight(weight, bias, statistics, config.ridge)
    # The bias takes up a rounding error's mean, so only its variance has to be kept small.
    moment = statistics.second_moment if bias is None else statistics.covariance
    scale = grid.scale.expand(weight.shape[1])
    folded = layer_arithmetic(config.arithmetic, weight_bits) == "folded"
    if folded:
        weight, moment = weight * scale, moment / scale[:, None] / scale[None, :]
    columns = moment.diagonal() if config.weight_search else None
    weight_grid = searched_weight_grid(weight, weight_bits, columns, search=config.weight_search)
    if config.compensation:
        rounded = round_compensated(weight, weight_grid, moment)
    else:
        rounded = fake_quantize(weight, weight_grid)
    if bias is not None:
        error = weight - rounded
        bias = bias + (error / scale if folded else error) @ statistics.mean
    return _split(layers, rounded / scale if folded else rounded, bias, weight_grid, grid, config)


def join_layers(layers: list[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """Return the stacked weights (O, C) and biases (O,) of layers that read the same input.

    Where only some have a bias, the others' are zeros.
    """
    bias = None
    if any(layer.bias is not None for layer in layers):
        biases = (layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias for layer in layers)
        bias = torch.cat(list(biases))
    return torch.cat([layer.weight for layer in layers]), bias


def _split(
    layers: list[nn.Linear],
    weight: Tensor,
    bias: Tensor | None,
    weight_grid: UniformGrid,
    input_grid: UniformGrid,
    config: MixQConfig,
) -> list[QuantLinear]:
    quantized, start = [], 0
    for layer in layers:
        rows = slice(start, start + layer.out_features)
        start = rows.stop
        part = UniformGrid(weight_grid.scale[rows], weight_grid.zero_point[rows], weight_grid.bits)
        part_bias = None if bias is None or layer.bias is None else bias[rows].clone()
        quantized.append(QuantLinear(weight[rows].clone(), part_bias, part, input_grid, config.arithmetic))
    return quantized
