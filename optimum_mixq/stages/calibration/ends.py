# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Calibrates what is before the first block and after the last: the patch embedding and the heads, in place."""

from collections.abc import Sequence

from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.architectures.describe import Architecture, replace_module
from optimum_mixq.architectures.replay import ModelCalls, captured_inputs, finish
from optimum_mixq.config import STEM_AND_HEAD_BITS
from optimum_mixq.quant.arithmetics import arithmetic_of
from optimum_mixq.quant.layers import QuantConv2d, QuantLinear
from optimum_mixq.stages.calibration.observers import RowObserver, minmax_grid, minmax_weight_grid


def calibrate_stem(model: PreTrainedModel, architecture: Architecture, calibration_images: Sequence[Tensor]) -> None:
    """Quantize the patch embedding, from images (B, C, H, W)."""
    stem = model.get_submodule(architecture.stem)
    observer = RowObserver(architecture.stem)
    for pixels in calibration_images:
        observer.observe(pixels.to(model.device).permute(0, 2, 3, 1))
    input_grid = minmax_grid(observer.result(), STEM_AND_HEAD_BITS)
    weight_grid = minmax_weight_grid(stem.weight.flatten(1), STEM_AND_HEAD_BITS)
    replace_module(model, architecture.stem, QuantConv2d(stem, weight_grid, input_grid))


def calibrate_heads(
    model: PreTrainedModel,
    architecture: Architecture,
    calls: ModelCalls,
    image: Tensor,
    hidden: Sequence[Tensor],
    arithmetic: str,
) -> None:
    """Quantize the heads, from the hidden states after the last block; `image` (1, C, H, W) is any one image."""
    observers = {name: RowObserver(name) for name in architecture.heads}
    for states in hidden:
        with captured_inputs(model, architecture.heads) as inputs:
            finish(model, architecture, calls, image.to(model.device, model.dtype), states)
        for name, observer in observers.items():
            observer.observe(inputs[name][0])
    for name, observer in observers.items():
        head = model.get_submodule(name)
        input_grid = minmax_grid(observer.result(), STEM_AND_HEAD_BITS)
        gridded = arithmetic_of(arithmetic).of_layer(STEM_AND_HEAD_BITS).to_grid(head.weight, input_grid.scale)
        weight_grid = minmax_weight_grid(gridded, STEM_AND_HEAD_BITS)
        bias = None if head.bias is None else head.bias.clone()
        replace_module(model, name, QuantLinear(head.weight.clone(), bias, weight_grid, input_grid, arithmetic))
