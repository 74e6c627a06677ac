# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Numbers per image: a score, an age, a quality, or features where there is no head. A single logit is one of them."""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.architectures.describe import describe
from optimum_mixq.tasks.base import Task, register_task


@register_task
class Regression(Task):
    divergence_name = "half squared distance to float"
    predicts_labels = False

    def handles(self, model: PreTrainedModel) -> bool:
        one_number = model.config.num_labels == 1 or not describe(model).heads  # without a head, features come out
        return model.config.problem_type == "regression" or (model.config.problem_type is None and one_number)

    def divergence(self, logits: Tensor, reference: Tensor, temperature: float = 1.0) -> Tensor:
        """Return half the squared difference, summed over outputs: KL of normal distributions of variance one.

        The temperature drops out: T^2 ((a - b) / T)^2 = (a - b)^2.
        """
        return (logits - reference).square().sum(-1) / 2

    def probe(self, logits: Tensor, signs: Tensor, temperature: float = 1.0) -> Tensor:
        """Return the signs themselves: F is the identity."""
        return signs

    def explained(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        """Return equal weights: all outputs are wanted."""
        return torch.full_like(logits, 1 / logits.shape[-1])

    def targets(self, labels: Tensor, outputs: int) -> Tensor:
        return labels.float().reshape(-1, outputs)

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the squared error, a mean over outputs; numbers are not smoothed."""
        return (logits - targets.to(logits.dtype)).square().mean(-1)

    def accuracy(self, logits: Tensor, labels: Tensor) -> None:
        return None

    def agreement(self, logits: Tensor, reference: Tensor) -> None:
        return None

    def describe(self, logits: Tensor, names: Mapping[int, str]) -> list[str]:
        """Return the numbers, at most three of them."""
        return [f"{names.get(row, row)}: {value:.4g}" for row, value in enumerate(logits[:3].tolist())]

    def describe_label(self, label: Tensor, names: Mapping[int, str]) -> str:
        return ", ".join(f"{value:.4g}" for value in label.reshape(-1)[:3].tolist())
