# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Depth estimation: a number for each pixel, of which most models leave unit and offset open."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForDepthEstimation, PreTrainedModel

from optimum_mixq.architectures.further import serves
from optimum_mixq.tasks.base import Task, register_task


@register_task
class DepthEstimation(Task):
    hub_task = "depth-estimation"
    auto_class = AutoModelForDepthEstimation
    accuracy_name = "accuracy"  # there is none: depth maps are not read
    divergence_name = "half relative squared distance to float"
    divergence_metric = "relative_squared_error"
    lacks_loss = (
        "Depth maps are not read, since data sets differ in unit, sign and what is missing, and models learn from the "
        "float model alone."
    )
    predicts_labels = False
    mixes_targets = False

    def handles(self, model: PreTrainedModel) -> bool:
        return serves(model, self.hub_task)

    def logits(self, model: PreTrainedModel, outputs: Mapping[str, Any]) -> Tensor:
        """Return the depth of each pixel (B, H, W)."""
        return outputs["predicted_depth"]

    def divergence(self, logits: Tensor, reference: Tensor, temperature: float = 1.0) -> Tensor:
        """Return half the squared error, in parts of the reference's own spread: sum (a - b)^2 / 2 sum (b - mean b)^2.

        It has no unit. The temperature drops out, as any factor does.
        """
        return (logits - reference).square().sum((1, 2)) / (2 * _spread(reference)[:, 0, 0])

    def probe(self, logits: Tensor, signs: Tensor, temperature: float = 1.0) -> Tensor:
        """Return signs / root of the spread: F is the identity over the spread."""
        return signs / _spread(logits).sqrt()

    def explained(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        """Return equal weights: all pixels are wanted."""
        return torch.full_like(logits, 1 / logits[0].numel())

    def targets(self, labels: Tensor, outputs: int) -> Tensor:
        """Return targets without numbers (B, 0): training is by distillation."""
        return torch.empty(len(labels), 0)

    def unknown_target(self, pixels: Tensor, outputs: int) -> Tensor:
        return torch.empty(0)

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        raise ValueError(f"Expected a task with a loss against labels, found depth estimation. {self.lacks_loss}")

    def accuracy(self, logits: Tensor, labels: Tensor) -> None:
        return None

    def agreement(self, logits: Tensor, reference: Tensor) -> None:
        return None

    def describe(self, logits: Tensor, names: Mapping[int, str]) -> list[str]:
        """Return the least and the greatest depth."""
        return [f"depth {float(logits.min()):.4g} to {float(logits.max()):.4g}"]


def _spread(depth: Tensor) -> Tensor:
    """Return the squared distances (B, 1, 1) of depths (B, H, W) from their mean, summed, none of which is zero."""
    mean = depth.mean((1, 2), keepdim=True)
    return (depth - mean).square().sum((1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
