# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Whether a saved model would load again: its class has to build the same modules from its configuration."""

import copy

import torch
from transformers import PreTrainedModel

from optimum_mixq.architectures.backbones import drop_as, is_backbone
from optimum_mixq.architectures.base import model_type_of
from optimum_mixq.architectures.describe import configured_image_size, describe


def require_rebuildable(model: PreTrainedModel) -> None:
    """Raise a ValueError if the model's class builds other tensors than the model has.

    A head that was replaced after loading is what does that: it would be saved, and loaded as another one.
    """
    with torch.device("meta"):
        rebuilt = type(model)(copy.deepcopy(model.config))
    drop_as(rebuilt, model)  # as it is loaded
    expected, found = _shapes(rebuilt), _shapes(model)
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if not different:
        return
    name = different[0]
    if not describe(model).heads and not is_backbone(model):
        hint = "Set model.config.num_labels = 0, which says that there is no head"
    else:
        hint = "Make a subclass whose __init__ builds it and load with that, or quantize without saving"
    raise ValueError(
        f"{type(model).__name__} builds {name} as {expected.get(name, 'nothing')}, and this model has "
        f"{found.get(name, 'nothing')}: once saved, it would not load again. {hint}."
    )


def require_same_shape(model: PreTrainedModel, packed: PreTrainedModel, folder: str) -> None:
    """Raise a ValueError if the packed model of a folder cannot have been made from this float one."""
    for what, here, there in zip(
        ("type", "image size", "layers' size"), _describe_shape(model), _describe_shape(packed), strict=True
    ):
        if here != there:
            raise ValueError(
                f"The float model does not match the packed one in {folder}: its {what} is {here}, and not {there}. "
                "Name the model that it was made from (--float-model)."
            )


def _describe_shape(model: PreTrainedModel) -> tuple[str, str, str]:
    """Return the model's type, its image size, and the number and sizes of its quantized layers, in words."""
    architecture = describe(model)
    layers = [model.get_submodule(name) for name in (*architecture.unit_of_module, *architecture.heads)]
    sizes = sorted({(layer.in_features, layer.out_features) for layer in layers})
    sides = configured_image_size(model)
    return model_type_of(model), f"{sides[0]} x {sides[1]}", f"{len(layers)} of {sizes}"


def _shapes(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
