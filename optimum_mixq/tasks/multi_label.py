# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Several labels per image, each present or not: a sigmoid for each logit."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.tasks.base import Task, register_task


@register_task
class MultiLabel(Task):
    accuracy_name = "right labels"

    def handles(self, model: PreTrainedModel) -> bool:
        return model.config.problem_type == "multi_label_classification"

    def divergence(self, logits: Tensor, reference: Tensor, temperature: float = 1.0) -> Tensor:
        """Return T^2 times the sum over labels of KL(sigmoid(reference / T) || sigmoid(logits / T)), both outcomes."""
        found, expected = logits / temperature, reference / temperature
        present = expected.sigmoid() * (F.logsigmoid(expected) - F.logsigmoid(found))
        absent = (-expected).sigmoid() * (F.logsigmoid(-expected) - F.logsigmoid(-found))
        return temperature**2 * (present + absent).sum(-1)

    def probe(self, logits: Tensor, signs: Tensor, temperature: float = 1.0) -> Tensor:
        """Return sqrt(p (1 - p)) * signs, with p = sigmoid(logits / T): F = diag(p (1 - p))."""
        scaled = logits / temperature
        return (scaled.sigmoid() * (-scaled).sigmoid()).sqrt() * signs

    def explained(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        """Return equal weights for the labels that are present, or predicted; of none, for the likeliest one."""
        chosen = (logits > 0 if labels is None else labels.to(logits.device) > 0.5).to(logits.dtype)
        likeliest = F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
        chosen = chosen.where(chosen.sum(-1, keepdim=True) > 0, likeliest)
        return chosen / chosen.sum(-1, keepdim=True)

    def predicted(self, logits: Tensor) -> Tensor:
        return (logits > 0).to(logits.dtype)

    def targets(self, labels: Tensor, outputs: int) -> Tensor:
        return labels.float()

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the mean binary cross-entropy over labels, as transformers' own loss is."""
        smoothed = targets.to(logits.dtype) * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, smoothed, reduction="none").mean(-1)

    def accuracy(self, logits: Tensor, labels: Tensor) -> float:
        """Return the share of labels, over all images, that are predicted as they are."""
        return float(((logits > 0) == (labels > 0.5)).double().mean())

    def agreement(self, logits: Tensor, reference: Tensor) -> float:
        return float(((logits > 0) == (reference > 0)).double().mean())

    def describe(self, logits: Tensor, names: Mapping[int, str]) -> list[str]:
        """Return the labels that are predicted, at most five, with their probabilities, the likeliest first."""
        present = logits.double().sigmoid()
        rows = [row for row in present.argsort(descending=True).tolist() if present[row] > 0.5]
        return [f"{names.get(row, row)} {100 * float(present[row]):.1f} %" for row in rows[:5]] or ["no label"]

    def describe_label(self, label: Tensor, names: Mapping[int, str]) -> str:
        present = [str(names.get(row, row)) for row, value in enumerate(label.tolist()) if value > 0.5]
        return ", ".join(present) or "no label"
