# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Calibrates what is before the first block and after the last: the patch embedding and the heads, in place."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq.architectures.describe import Architecture, replace_module
from optimum_mixq.architectures.replay import ModelCalls, captured_inputs, captured_outputs, finish
from optimum_mixq.config import PIXEL_BITS, CalibrationOptions
from optimum_mixq.quant.arithmetics import arithmetic_of
from optimum_mixq.quant.grids import UniformGrid
from optimum_mixq.quant.layers import QuantConv2d, QuantLinear
from optimum_mixq.stages.calibration.joint_rounding import correct_layers
from optimum_mixq.stages.calibration.observers import (
    Observation,
    RowObserver,
    leveled_grid,
    minmax_grid,
    minmax_weight_grid,
    searched_grid,
)
from optimum_mixq.stages.calibration.rounders import rounder_of
from optimum_mixq.utils.bits import LARGEST_BITS


# A head reads one row per image, so that other images often leave the ranges that were seen: more room for them.
LEVEL_OF_HEADS = 0.5


def calibrate_stem(
    model: PreTrainedModel,
    architecture: Architecture,
    calibration_images: Sequence[Tensor],
    options: CalibrationOptions,
) -> None:
    """Quantize the patch embedding, from images (B, C, H, W)."""
    if architecture.stem is None:
        return
    stem: nn.Conv2d = model.get_submodule(architecture.stem)
    images = [pixels.to(model.device) for pixels in calibration_images]
    observer = RowObserver(architecture.stem)
    for pixels in images:
        observer.observe(pixels.permute(0, 2, 3, 1))
    pixel_grid = minmax_grid(observer.result(), PIXEL_BITS)
    weight_grid = minmax_weight_grid(stem.weight.flatten(1), LARGEST_BITS)
    if options.stem_and_head_bits < LARGEST_BITS:
        stem, weight_grid = _round_stem(stem, images, pixel_grid, options)
    replace_module(model, architecture.stem, QuantConv2d(stem, weight_grid, pixel_grid))


def _round_stem(
    stem: nn.Conv2d, images: Sequence[Tensor], pixel_grid: UniformGrid, options: CalibrationOptions
) -> tuple[nn.Conv2d, UniformGrid]:
    """Return the patch embedding with a rounded weight, and the weight's grid: it is a linear layer of patches."""
    weight, bias = stem.weight.detach(), None if stem.bias is None else stem.bias.detach()
    outputs, inputs = weight.flatten(1).shape
    linear = nn.Linear(inputs, outputs, bias is not None, weight.device, weight.dtype).requires_grad_(False)
    linear.weight.copy_(weight.flatten(1))
    if bias is not None:
        linear.bias.copy_(bias)
    pixels_of_channel = inputs // stem.in_channels
    scale, zero_point = (
        values.repeat_interleave(pixels_of_channel) for values in (pixel_grid.scale, pixel_grid.zero_point)
    )
    grid = UniformGrid(scale, zero_point, PIXEL_BITS)
    size, stride = (stem.kernel_size[0], stem.kernel_size[1]), (stem.stride[0], stem.stride[1])
    patches = [F.unfold(pixels, size, stride=stride).mT for pixels in images]  # (B, patches, C)
    targets = [F.linear(batch, linear.weight, linear.bias) for batch in patches]
    # The patch embedding has no arithmetic: its weight's grid rounds the weight itself.
    options = replace(options, arithmetic="column")
    corrected = correct_layers((linear,), grid, patches, targets, options)
    (rounded,) = corrected.round(options.stem_and_head_bits, options, rounder_of(options))
    made = nn.Conv2d(stem.in_channels, outputs, size, stride, bias=bias is not None, device=weight.device)
    made.weight.data, weight_grid = rounded.weight.detach().view_as(weight), rounded.weight_grid
    if rounded.bias is not None:
        made.bias.data = rounded.bias.detach()  # type: ignore[union-attr]
    return made, weight_grid


@dataclass(frozen=True)
class LastStates:
    """The hidden states after the last block, batch by batch: the quantized model's and the float model's."""

    quantized: Sequence[Tensor]
    float: Sequence[Tensor]


def calibrate_heads(
    model: PreTrainedModel,
    float_model: PreTrainedModel,
    architecture: Architecture,
    calls: ModelCalls,
    image: Tensor,
    states: LastStates,
    options: CalibrationOptions,
) -> None:
    """Quantize the heads; `image` (1, C, H, W) is any one image."""
    if not architecture.heads:
        return
    inputs: dict[str, list[Tensor]] = {name: [] for name in architecture.heads}
    outputs: dict[str, list[Tensor]] = {name: [] for name in architecture.heads}
    image = image.to(model.device, model.dtype)
    for hidden, float_hidden in zip(states.quantized, states.float, strict=True):
        with captured_inputs(model, architecture.heads) as found:
            finish(model, architecture, calls, image, hidden)
        for name in architecture.heads:
            inputs[name] += found[name]
        if options.stem_and_head_bits < LARGEST_BITS:  # then the heads are corrected
            with captured_outputs(float_model, architecture.heads) as expected:
                finish(float_model, architecture, calls, image, float_hidden)
            for name in architecture.heads:
                outputs[name] += expected[name]
    for name in architecture.heads:
        head = model.get_submodule(name)
        assert isinstance(head, nn.Linear)
        observer = RowObserver(name)
        for batch in inputs[name]:
            observer.observe(batch)
        observation = observer.result()
        if options.stem_and_head_bits == LARGEST_BITS:
            layer = _quantize_head(head, observation, options)
        else:
            layer = _round_head(head, observation, inputs[name], outputs[name], options)
        replace_module(model, name, layer)


def _quantize_head(head: nn.Linear, observation: Observation, options: CalibrationOptions) -> QuantLinear:
    find = searched_grid if options.input_search else minmax_grid
    input_grid = find(observation, LARGEST_BITS)
    if options.level:
        input_grid = leveled_grid(input_grid, observation, LEVEL_OF_HEADS)
    gridded = arithmetic_of(options.arithmetic).of_layer(LARGEST_BITS).to_grid(head.weight, input_grid.scale)
    weight_grid = minmax_weight_grid(gridded, LARGEST_BITS)
    bias = None if head.bias is None else head.bias.clone()
    return QuantLinear(head.weight.clone(), bias, weight_grid, input_grid, options.arithmetic)


def _round_head(
    head: nn.Linear,
    observation: Observation,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    options: CalibrationOptions,
) -> QuantLinear:
    bits = options.stem_and_head_bits
    corrected = correct_layers((head,), searched_grid(observation, bits), inputs, targets, options)
    return corrected.round(bits, options, rounder_of(options))[0]
