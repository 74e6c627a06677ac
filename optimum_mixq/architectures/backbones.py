# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Models without a classifier, which are used for the embedding of an image."""

from collections.abc import Collection, Mapping

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from optimum_mixq.architectures.base import class_names
from optimum_mixq.architectures.registry import ENCODERS, FAMILIES, REFUSED, family_of


def is_backbone(model: PreTrainedModel) -> bool:
    """Return whether a model of a supported family has no classifier."""
    return bool(set(family_of(model).backbones) & class_names(model))


def is_backbone_name(name: str) -> bool:
    """Return whether a class of this name is a model without a classifier of some family."""
    return any(name in family.backbones for family in FAMILIES)


def class_for_embeddings(config: PreTrainedConfig) -> str | None:
    """Return the name of the class that loads a checkpoint for its embeddings, or None where AutoModel knows it.

    Of several classes with one configuration AutoModel takes the first, such as a CLIP without its projection.
    """
    saved = (name for name in config.architectures or () if is_backbone_name(name))
    return next(saved, ENCODERS.get(config.model_type))


def has_only_an_encoder(config: PreTrainedConfig) -> bool:
    """Return whether nothing but the image encoder of a checkpoint serves here, whatever its class is."""
    return config.model_type in ENCODERS and config.model_type in REFUSED


def take_without_head(model: PreTrainedModel) -> PreTrainedModel:
    """Return what stands under the head of a classifier in memory."""
    return family_of(model).without_head(model)


def read_embedding(model: PreTrainedModel, outputs: Mapping[str, Tensor]) -> Tensor:
    """Return the embeddings (B, C) among what the forward of a backbone returned."""
    return family_of(model).embedding(outputs)


def describe_embedding(model: PreTrainedModel) -> str | None:
    """Return where a backbone puts out its embeddings, in words; None for a classifier."""
    return family_of(model).embedding_words if is_backbone(model) else None


def drop_absent(model: PreTrainedModel, tensors: Collection[str]) -> list[str]:
    """Take out of a backbone, in place, the optional modules that none of the named tensors belongs to.

    Returns their names.
    """
    dropped = []
    for module in family_of(model).optional if is_backbone(model) else ():
        if getattr(model, module) is not None and not any(name.startswith(f"{module}.") for name in tensors):
            setattr(model, module, None)
            dropped.append(module)
    return dropped


def drop_as(model: PreTrainedModel, other: PreTrainedModel) -> None:
    """Take out of a backbone, in place, the optional modules that another one of its class lacks."""
    drop_absent(model, list(other.state_dict()))
