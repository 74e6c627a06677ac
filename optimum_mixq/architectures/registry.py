# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Which family a model belongs to."""

from torch import nn

from optimum_mixq.architectures.base import Family, model_type_of


# In the order in which they are asked.
FAMILIES: list[Family] = []


def register_family(family: type[Family]) -> type[Family]:
    """Add a family. The one registered last is asked first."""
    FAMILIES.insert(0, family())
    return family


def family_of(model: nn.Module) -> Family:
    """Return the first family that handles the model."""
    for family in FAMILIES:
        if family.handles(model):
            return family
    supported = ", ".join(sorted({family.model_type for family in FAMILIES}))
    raise ValueError(
        f"Expected a model of type {supported}, found '{model_type_of(model)}' ({type(model).__name__}). Other "
        "families are not supported: docs/add-an-architecture.md in the optimum-mixq repository says what adding one "
        "takes."
    )
