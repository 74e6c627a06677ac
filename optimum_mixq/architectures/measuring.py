# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Runs a model to measure it, and leaves it as it was."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq.architectures.describe import configured_channels, configured_image_size, require_image_size
from optimum_mixq.utils.threads import fitting_threads


# Images of the forward that is timed to choose the number of threads, and how many pixels they have at most.
TIMED_IMAGES, TIMED_PIXELS = 8, 8 * 224**2

Given = ParamSpec("Given")
Result = TypeVar("Result")


@contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode; on exit every module has its mode, and each number it holds, back.

    Dropout would calibrate a model on noise. And a forward may change what a module is: from transformers 5.9 to 5.23
    a Swin layer whose window is no smaller than its map stops shifting windows for good, on larger images too.
    """
    numbers = {
        module: {name: value for name, value in vars(module).items() if isinstance(value, (bool, int, float))}
        for module in model.modules()
    }
    model.eval()
    try:
        yield
    finally:
        for module, values in numbers.items():
            vars(module).update(values)


def image_size_of(batches: Iterable[Tensor]) -> tuple[int, int] | None:
    """Return the (height, width) of the first of some batches of images (B, C, H, W); None if there is none."""
    first = next(iter(batches), None)
    return None if first is None else (first.shape[2], first.shape[3])


def blank_images(model: PreTrainedModel, count: int, size: tuple[int, int] | None = None) -> Tensor:
    """Return images of zeros, (count, C, H, W), of the given size, or else of the one in the model's configuration."""
    height, width = size or configured_image_size(model)
    require_image_size(model, (height, width))
    return torch.zeros(count, configured_channels(model), height, width, dtype=model.dtype, device=model.device)


@contextmanager
def threads_for(model: PreTrainedModel) -> Iterator[None]:
    """Run the block on as many of torch's threads as a forward of this model is fastest with.

    Off the CPU nothing is changed.
    """
    if model.device.type != "cpu":
        yield
        return
    height, width = configured_image_size(model)
    pixels = blank_images(model, max(1, min(TIMED_IMAGES, TIMED_PIXELS // (height * width))))

    def run() -> None:
        with measuring(model), torch.no_grad():
            model(pixel_values=pixels)

    with fitting_threads(run, model):
        yield


def on_fitting_threads(
    function: Callable[Concatenate[PreTrainedModel, Given], Result],
) -> Callable[Concatenate[PreTrainedModel, Given], Result]:
    """Make a function run on as many threads as a forward of its first argument, a model, is fastest with."""

    @wraps(function)
    def run(model: PreTrainedModel, *arguments: Given.args, **options: Given.kwargs) -> Result:
        with threads_for(model):
            return function(model, *arguments, **options)

    return run
