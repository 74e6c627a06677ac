# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Whether a saved model would load again: its class has to build the same modules from its configuration."""

import copy

import torch
from transformers import PreTrainedModel

from optimum_mixq.architectures import describe


def require_rebuildable(model: PreTrainedModel) -> None:
    """Raise a ValueError if the model's class builds other tensors than the model has.

    A head that was replaced after loading is what does that: it would be saved, and loaded as another one.
    """
    with torch.device("meta"):
        rebuilt = type(model)(copy.deepcopy(model.config))
    expected, found = _shapes(rebuilt), _shapes(model)
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if not different:
        return
    name = different[0]
    if not describe(model).heads:
        hint = "Set model.config.num_labels = 0, which says that there is no head"
    else:
        hint = "Make a subclass whose __init__ builds it and load with that, or quantize without saving"
    raise ValueError(
        f"{type(model).__name__} builds {name} as {expected.get(name, 'nothing')}, and this model has "
        f"{found.get(name, 'nothing')}: once saved, it would not load again. {hint}."
    )


def _shapes(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
