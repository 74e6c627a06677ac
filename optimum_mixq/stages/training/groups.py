# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Which parameters learn how fast."""

from typing import Any

from transformers import PreTrainedModel

from optimum_mixq.architectures.describe import describe
from optimum_mixq.stages.training.config import MixQTrainingConfig


GRID_SUFFIXES = ("_step", "_offset")


def suit_rates(model: PreTrainedModel, config: MixQTrainingConfig) -> MixQTrainingConfig:
    """Return the recipe with learning rates that suit the bits of a trainable model, where it leaves them open."""
    layers = [model.get_submodule(name) for name in describe(model).unit_of_module]
    bits = sum(layer.weight_bits * layer.weight.numel() for layer in layers)
    return config.for_bits(bits / sum(layer.weight.numel() for layer in layers))


def parameter_groups(model: PreTrainedModel, config: MixQTrainingConfig) -> list[dict[str, Any]]:
    """Return weights with decay, grids with their own learning rate, and the rest."""
    config = suit_rates(model, config)
    weights, grids, rest = [], [], []
    for name, parameter in model.named_parameters():
        if name.endswith(GRID_SUFFIXES):
            grids.append(parameter)
        elif parameter.ndim >= 2 and name.endswith("weight"):
            weights.append(parameter)
        else:
            rest.append(parameter)
    return [
        {"params": weights, "lr": config.learning_rate, "weight_decay": config.weight_decay},
        {"params": grids, "lr": config.step_learning_rate, "weight_decay": 0.0},
        {"params": rest, "lr": config.learning_rate, "weight_decay": 0.0},
    ]
