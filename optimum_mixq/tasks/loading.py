# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""How a model is loaded for its task: by the class of its checkpoint, or by what the task is said to be."""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging

from optimum_mixq.architectures.backbones import (
    class_for_embeddings,
    drop_absent,
    has_only_an_encoder,
    is_backbone,
    is_backbone_name,
    take_without_head,
)
from optimum_mixq.architectures.describe import describe
from optimum_mixq.architectures.further import further_task_of
from optimum_mixq.architectures.registry import ENCODERS, family_of, require_not_refused
from optimum_mixq.tasks.base import Task, auto_class_named, task_of
from optimum_mixq.tasks.features import Features


logger = logging.get_logger(__name__)


def load_model(name_or_folder: str | Path, task: str | None = None, **options: Any) -> PreTrainedModel:
    """Return the model of a name on the Hub or of a folder; `options` are those of `from_pretrained`.

    Without a task, a checkpoint of a model without a classifier is loaded for its embeddings, and any other as a
    classifier. "image-feature-extraction" loads what stands under a classifier's head, and of several towers the one
    for images.
    """
    return load_with(_find_class(name_or_folder, task, options), name_or_folder, **options)


def load_with(loader: type[Any], name_or_folder: str | Path, **options: Any) -> PreTrainedModel:
    """Return the model that a class of transformers, or an Auto class, makes of a checkpoint.

    Of what a checkpoint lacks transformers makes random numbers: a pooler of these is taken out of the model, a head
    is refused.
    """
    model, told = loader.from_pretrained(name_or_folder, output_loading_info=True, **options)
    dropped = drop_absent(model, set(model.state_dict()) - set(told["missing_keys"]))
    if dropped:
        logger.warning(f"{name_or_folder} has no {' and no '.join(dropped)}: that part was left out of the model.")
    _require_head(model, told["missing_keys"], str(name_or_folder))
    return model


def hub_task_of(class_names: Iterable[str]) -> str:
    """Return what the Hub calls the task of the classes that a checkpoint names."""
    names = list(class_names)
    further = [task for task in map(further_task_of, names) if task is not None]
    return further[0] if further else (Features if any(map(is_backbone_name, names)) else Task).hub_task


def take_part(model: PreTrainedModel, task: str | None) -> PreTrainedModel:
    """Return what of a model in memory serves a task: itself, or for features what stands under its head."""
    if task is None:
        return model
    auto_class = auto_class_named(task)
    if task_of(model).hub_task == task:
        return model
    if is_backbone(model):
        raise ValueError(
            f"Expected an image classifier for task='{task}', found a {type(model).__name__}, which has no head. "
            f"Leave task= out, or load a classifier with {auto_class.__name__}."
        )
    if task != Features.hub_task:
        raise ValueError(
            f"Expected a model for task='{task}', found a {type(model).__name__}. Load the checkpoint of one with "
            f"{auto_class.__name__}, or leave task= out."
        )
    return take_without_head(model)


def class_that_loads(model: PreTrainedModel) -> str:
    """Return the name of the class of transformers that loads the model again: an Auto class wherever one takes it."""
    auto_class, own = task_of(model).auto_class, type(model).__name__
    known = auto_class._model_mapping.get(type(model.config), ())
    taken = [each.__name__ for each in (known if isinstance(known, tuple) else (known,))]
    return auto_class.__name__ if own in taken or not hasattr(transformers, own) else own


def _require_head(model: PreTrainedModel, missing: Collection[str], name: str) -> None:
    """Raise a ValueError if the head of a model, such as a classifier's, is not the checkpoint's."""
    if not missing:
        return
    architecture = describe(model)
    head = architecture.heads or architecture.left_float  # a decode head stays float
    lacking = sorted(key for key in missing if key.rpartition(".")[0] in head)
    if lacking and is_backbone(model):
        raise ValueError(
            f"Expected a checkpoint with {lacking[0]}, found none in {name}: it would be random. Load it with a class "
            f"without it, such as {family_of(model).backbones[0]}, and pass the model itself."
        )
    if lacking:
        task = task_of(model).hub_task
        kind = "an image classifier" if task == Task.hub_task else f"a model for {task}"
        raise ValueError(
            f"Expected the checkpoint of {kind}, found one without {lacking[0]} in {name}: the head "
            f"would be random. Fine-tune it first, or load it for its embeddings with task='{Features.hub_task}'."
        )


def _find_class(name_or_folder: str | Path, task: str | None, options: dict[str, Any]) -> type[Any]:
    """Return the class that loads a checkpoint for a task, or for the one that the checkpoint's class stands for."""
    where = {name: value for name, value in options.items() if name not in ("dtype", "device_map")}
    config = AutoConfig.from_pretrained(name_or_folder, **where)
    if config.model_type not in ENCODERS:  # some class of transformers may not even load it
        require_not_refused(config.model_type, (config.architectures or [type(config).__name__])[0])
    own_task = Features.hub_task if has_only_an_encoder(config) else hub_task_of(config.architectures or ())
    auto_class = auto_class_named(task or own_task)
    name = class_for_embeddings(config) if auto_class is Features.auto_class else None
    return auto_class if name is None else getattr(transformers, name, auto_class)
