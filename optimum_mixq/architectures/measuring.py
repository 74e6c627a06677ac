# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Runs a model to measure it, and leaves it as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


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
