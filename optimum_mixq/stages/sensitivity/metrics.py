# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The metrics: divergence from the baseline or from the float model, and what labels tell."""

from optimum_mixq.stages.sensitivity.registry import Compared, Metric, register_metric


@register_metric
class Shift(Metric):
    """The task's divergence from the baseline's logits: it is never negative, and zero at the baseline."""

    name = "shift"
    from_baseline = True

    def damage(self, compared: Compared) -> float:
        return _divergence(compared)


@register_metric
class KL(Metric):
    """The task's divergence from the float model's logits."""

    name = "kl"

    def damage(self, compared: Compared) -> float:
        return _divergence(compared)


@register_metric
class CrossEntropy(Metric):
    """The task's loss against the labels."""

    name = "cross_entropy"
    needs_labels = True

    def damage(self, compared: Compared) -> float:
        assert compared.labels is not None
        targets = compared.task.targets(compared.labels, compared.logits.shape[-1])
        return float(compared.task.loss(compared.logits.double(), targets).sum())


@register_metric
class Accuracy(Metric):
    """The share of wrong predictions."""

    name = "accuracy"
    needs_labels = True

    def damage(self, compared: Compared) -> float:
        assert compared.labels is not None
        accuracy = compared.task.accuracy(compared.logits, compared.labels)
        if accuracy is None:
            raise ValueError("The metric 'accuracy' needs classes, and this model's outputs are numbers: use 'shift'.")
        return len(compared.logits) * (1 - accuracy)


def _divergence(compared: Compared) -> float:
    logits, reference = compared.logits.double(), compared.reference.double()
    return float(compared.task.divergence(logits, reference, compared.temperature).sum())
