# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Embeddings: what a model without a classifier says of an image. Their direction counts, not their length."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from optimum_mixq.architectures.backbones import is_backbone, read_embedding
from optimum_mixq.tasks.base import Task, register_task
from optimum_mixq.tasks.meters import Meter, WholeMeter


# How many images are compared with all others at once.
COMPARED_IMAGES = 1024


@register_task
class Features(Task):
    hub_task = "image-feature-extraction"
    auto_class = AutoModel
    accuracy_name = "nearest-neighbour accuracy"
    divergence_name = "cosine distance to float"
    divergence_metric = "cosine_distance"
    lacks_loss = "An embedding has no classes, and models learn from the float model alone."
    predicts_labels = False

    def handles(self, model: PreTrainedModel) -> bool:
        return is_backbone(model)

    def logits(self, model: PreTrainedModel, outputs: Mapping[str, Any]) -> Tensor:
        return read_embedding(model, outputs)

    def divergence(self, logits: Tensor, reference: Tensor, temperature: float = 1.0) -> Tensor:
        """Return the cosine distance, 1 - cosine: half the squared difference of the normalised embeddings.

        The temperature drops out, as any factor of an embedding does.
        """
        return (F.normalize(logits, dim=-1) - F.normalize(reference, dim=-1)).square().sum(-1) / 2

    def probe(self, logits: Tensor, signs: Tensor, temperature: float = 1.0) -> Tensor:
        """Return (signs - u (u . signs)) / |e|, with u the normalised embedding e: F = (1 - u u^T) / |e|^2."""
        direction, length = F.normalize(logits, dim=-1), _length(logits)
        return (signs - direction * (direction * signs).sum(-1, keepdim=True)) / length

    def explained(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        """Return the share of each number in the squared length of the embedding."""
        return F.normalize(logits, dim=-1).square()

    def targets(self, labels: Tensor, outputs: int) -> Tensor:
        """Return targets without numbers (B, 0): an embedding has no label to be trained against."""
        return torch.empty(len(labels), 0)

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        raise ValueError(f"Expected a task with a loss against labels, found feature extraction. {self.lacks_loss}")

    def accuracy(self, logits: Tensor, labels: Tensor) -> float | None:
        """Return the share of images whose nearest other one, by cosine, has their label; None for fewer than two."""
        if len(logits) < 2:
            return None
        directions, right = F.normalize(logits.float(), dim=-1), 0
        for rows in torch.arange(len(logits), device=logits.device).split(COMPARED_IMAGES):
            cosines = directions[rows] @ directions.T
            cosines[torch.arange(len(rows)), rows] = -torch.inf  # an image is not its own neighbour
            right += int((labels[cosines.argmax(-1)] == labels[rows]).sum())
        return right / len(logits)

    def meter(self) -> Meter:
        """Return what compares all images of a pass with each other."""
        return WholeMeter(self.accuracy)

    def agreement(self, logits: Tensor, reference: Tensor) -> None:
        return None

    def describe(self, logits: Tensor, names: Mapping[int, str]) -> list[str]:
        """Return the length of the embedding: its numbers have no names."""
        return [f"embedding of length {float(logits.norm()):.4g}"]

    def describe_label(self, label: Tensor, names: Mapping[int, str]) -> str:
        """Return the number of the source's class: the model has no names for it."""
        return f"class {int(label)}"


def _length(embeddings: Tensor) -> Tensor:
    """Return the lengths (B, 1), none of which is zero."""
    return embeddings.norm(dim=-1, keepdim=True).clamp(min=1e-12)  # as F.normalize does
