# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The door to everything that is known of models.

`describe(model)` returns an `Architecture`: the blocks in forward order, the units that get a bit choice, which
LayerNorm feeds which readers, the stem and the heads. All other rooms work with these words; only
`architectures/families/` knows the names of modules.
"""

from torch import nn
from transformers import PreTrainedModel

from optimum_mixq.architectures import families  # noqa: F401 (importing them registers them)
from optimum_mixq.architectures.base import (
    Activation,
    Architecture,
    Block,
    Family,
    NormReaders,
    Residual,
    Unit,
    UnitKind,
    class_names,
    replace_module,
)
from optimum_mixq.architectures.registry import ENCODERS, family_of


__all__ = [
    "Activation",
    "Architecture",
    "Block",
    "NormReaders",
    "Residual",
    "Unit",
    "UnitKind",
    "configured_channels",
    "configured_image_size",
    "describe",
    "expected_image_size",
    "replace_module",
    "require_image_size",
    "take_image_size",
]


def describe(model: PreTrainedModel) -> Architecture:
    """Return the `Architecture` of a model of a registered family (docs/supported-models.md).

    The model is an image classifier, one without a classifier that is used for its embeddings, or one for a further
    task of its family. Every `nn.Linear` and `nn.Conv2d` of the model stands in exactly one place of the result: stem,
    heads, one unit, or the layers that are left float.
    """
    _refuse_wrapped(model)
    family = family_of(model)
    if not set(family.classes) & class_names(model):
        raise ValueError(_describe_other_class(model, family))
    architecture = family.describe(model)
    _check_complete(model, architecture)
    return architecture


def configured_channels(model: PreTrainedModel) -> int:
    """Return how many channels the model's images have."""
    return family_of(model).channels(model)


def configured_image_size(model: PreTrainedModel) -> tuple[int, int]:
    """Return the (height, width) that the model is configured for."""
    return family_of(model).image_size(model)


def expected_image_size(model: PreTrainedModel) -> tuple[int, int] | None:
    """Return the only (height, width) that the model takes, or None where it takes any (Swin pads)."""
    family = family_of(model)
    return None if family.takes_any_size(model) else family.image_size(model)


def require_image_size(model: PreTrainedModel, size: tuple[int, int]) -> None:
    """Raise a ValueError if the model cannot run images of this (height, width)."""
    family_of(model).require_image_size(model, size)


def take_image_size(model: PreTrainedModel, size: tuple[int, int]) -> None:
    """Have the model take images of this (height, width) instead of those it is configured for, in place."""
    family_of(model).take_image_size(model, size)


def _describe_other_class(model: PreTrainedModel, family: Family) -> str:
    expected, ways = [], []
    if family.classifiers:
        expected.append(f"an image classifier ({', '.join(family.classifiers)}, or a subclass)")
        ways.append("with AutoModelForImageClassification")
    if family.backbones:
        expected.append(f"a model without a classifier ({', '.join(family.backbones)}, or a subclass)")
        ways.append("with AutoModel for its embeddings")
    if family.model_type in ENCODERS:
        ways.append(f"with {ENCODERS[family.model_type]} for the embeddings of its images")
    for task, names in family.further.items():
        expected.append(f"a model for {task} ({', '.join(names)}, or a subclass)")
        ways.append(f"as one of these with task='{task}'")
    return f"Expected {' or '.join(expected)}, found {type(model).__name__}. Load the checkpoint {', or '.join(ways)}."


def _refuse_wrapped(model: nn.Module) -> None:
    """Raise a ValueError for a model inside another one, with the way to the plain one."""
    if "OptimizedModule" in class_names(model):
        raise ValueError(
            "Expected the model itself, found what torch.compile made of it: pass model._orig_mod, and compile the "
            "packed model instead."
        )
    if "PeftModel" in class_names(model):
        raise ValueError(
            f"Expected a plain model, found a {type(model).__name__} with adapters: pass model.merge_and_unload(), "
            "which adds them to the weights."
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            f"Expected a plain model, found a {type(model).__name__} with adapters. Save them with "
            "model.save_pretrained(folder), and pass PeftModel.from_pretrained(the model without adapters, "
            "folder).merge_and_unload(), which adds them to the weights."
        )


def _check_complete(model: PreTrainedModel, architecture: Architecture) -> None:
    modules = dict(model.named_modules())
    stem = [] if architecture.stem is None else [architecture.stem]
    described = [*stem, *architecture.heads, *architecture.unit_of_module, *architecture.left_float]
    layers = {name for name, module in modules.items() if isinstance(module, (nn.Linear, nn.Conv2d))}
    missing, absent = sorted(layers - set(described)), sorted(set(described) - set(modules))
    if missing or absent or len(described) != len(set(described)):
        raise ValueError(
            f"{type(model).__name__} does not have the structure that optimum-mixq knows: "
            f"layers without a place {missing or 'none'}, places without a layer {absent or 'none'}. "
            "This release of transformers may have moved modules: please open an issue with its version."
        )
