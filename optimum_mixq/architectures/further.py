# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Models for other tasks than classification and embeddings, which a family names under `further`."""

from transformers import PreTrainedModel

from optimum_mixq.architectures.base import class_names
from optimum_mixq.architectures.registry import FAMILIES, family_of


def serves(model: PreTrainedModel, hub_task: str) -> bool:
    """Return whether the class of a model of a supported family is one for this task, as the Hub calls it."""
    return bool(set(family_of(model).further.get(hub_task, ())) & class_names(model))


def tells_metres(model: PreTrainedModel) -> bool:
    """Return whether a depth estimator puts out distances, and not inverse ones of no unit and offset."""
    return family_of(model).tells_metres(model)


def further_task_of(class_name: str) -> str | None:
    """Return which of these tasks a class of this name is for, or None."""
    for family in FAMILIES:
        for hub_task, names in family.further.items():
            if class_name in names:
                return hub_task
    return None
