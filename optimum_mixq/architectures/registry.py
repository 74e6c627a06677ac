# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Which family a model belongs to."""

from torch import nn

from optimum_mixq.architectures.base import Family, model_type_of


# In the order in which they are asked.
FAMILIES: list[Family] = []
# By type of checkpoint, the class of transformers that takes its image encoder, where AutoModel's class is another.
ENCODERS: dict[str, str] = {}
# By type of model, why it is not supported, for people.
REFUSED: dict[str, str] = {}


def register_family(family: type[Family]) -> type[Family]:
    """Add a family. The one registered last is asked first."""
    FAMILIES.insert(0, family())
    return family


def register_encoder(model_type: str, class_name: str) -> None:
    """Have checkpoints of a type loaded for their embeddings by a class of some family."""
    ENCODERS[model_type] = class_name


def refuse_type(model_type: str, reason: str) -> None:
    """Say why models of a type are not supported, and what to do instead."""
    REFUSED[model_type] = reason


def require_not_refused(model_type: str, class_name: str) -> None:
    """Raise a ValueError with the reason if models of this type were found not to be supported."""
    if model_type in REFUSED:
        raise ValueError(
            f"Expected a model of a supported type, found '{model_type}' ({class_name}): {REFUSED[model_type]}"
        )


def family_of(model: nn.Module) -> Family:
    """Return the first family that handles the model."""
    for family in FAMILIES:
        if family.handles(model):
            return family
    found = model_type_of(model)
    require_not_refused(found, type(model).__name__)
    supported = ", ".join(sorted({family.model_type for family in FAMILIES}))
    raise ValueError(
        f"Expected a model of type {supported}, found '{found}' ({type(model).__name__}). Other "
        "families are not supported: docs/add-an-architecture.md in the optimum-mixq repository says what adding one "
        "takes."
    )
