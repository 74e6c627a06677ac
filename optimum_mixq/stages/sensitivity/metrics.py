# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The metrics: divergence from the baseline or from the float model, and what labels tell."""

from abc import abstractmethod

import torch
from torch import Tensor

from optimum_mixq.stages.sensitivity.registry import Compared, Metric, register_metric
from optimum_mixq.tasks import Task


@register_metric
class Shift(Metric):
    """The task's divergence from the baseline's logits: it is never negative, and zero at the baseline."""

    name = "shift"
    from_baseline = True

    def damages(self, compared: Compared) -> Tensor:
        return _divergence(compared)


@register_metric
class KL(Metric):
    """The task's divergence from the float model's logits."""

    name = "kl"

    def damages(self, compared: Compared) -> Tensor:
        return _divergence(compared)


class _AgainstLabels(Metric):
    needs_labels = True

    def damages(self, compared: Compared) -> Tensor:
        assert compared.labels is not None
        return self.against(compared.task, compared.logits, compared.labels)

    @abstractmethod
    def against(self, task: Task, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the damage to each image (B,), from logits (B, ...) and their labels."""


@register_metric
class CrossEntropy(_AgainstLabels):
    """The task's loss against the labels."""

    name = "cross_entropy"

    def against(self, task: Task, logits: Tensor, labels: Tensor) -> Tensor:
        return task.loss(logits.double(), task.targets(labels, logits.shape[-1]))


@register_metric
class Accuracy(_AgainstLabels):
    """The share of wrong predictions."""

    name = "accuracy"

    def against(self, task: Task, logits: Tensor, labels: Tensor) -> Tensor:
        shares = [task.accuracy(*pair) for pair in zip(logits.split(1), labels.split(1), strict=True)]
        right = [share for share in shares if share is not None]
        if len(right) < len(shares):
            raise ValueError("The metric 'accuracy' needs classes, and this model's outputs are numbers: use 'shift'.")
        return 1 - torch.tensor(right, dtype=torch.float64)


def _divergence(compared: Compared) -> Tensor:
    logits, reference = compared.logits.double(), compared.reference.double()
    return compared.task.divergence(logits, reference, compared.temperature)
