# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""One class per image: softmax over the logits."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.tasks.base import Task, register_task


@register_task
class SingleLabel(Task):
    def handles(self, model: PreTrainedModel) -> bool:
        return model.config.problem_type in (None, "single_label_classification")

    def divergence(self, logits: Tensor, reference: Tensor, temperature: float = 1.0) -> Tensor:
        """Return T^2 KL(softmax(reference / T) || softmax(logits / T)) (Hinton et al. 2015)."""
        found, expected = ((values / temperature).log_softmax(-1) for values in (logits, reference))
        return temperature**2 * F.kl_div(found, expected, log_target=True, reduction="none").sum(-1)

    def probe(self, logits: Tensor, signs: Tensor, temperature: float = 1.0) -> Tensor:
        """Return sqrt(p) * signs - p (sqrt(p) . signs), with p = softmax(logits / T): F = diag(p) - p p^T."""
        p = (logits / temperature).softmax(-1)
        root = p.sqrt() * signs
        return root - p * root.sum(-1, keepdim=True)

    def explained(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        """Return one-hot rows of the labels, or of the predictions."""
        classes = logits.argmax(-1) if labels is None else labels.to(logits.device)
        return F.one_hot(classes, logits.shape[-1]).to(logits.dtype)

    def predicted(self, logits: Tensor) -> Tensor:
        return logits.argmax(-1)

    def targets(self, labels: Tensor, outputs: int) -> Tensor:
        return F.one_hot(labels, outputs).float()

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(logits, targets.to(logits.dtype), label_smoothing=smoothing, reduction="none")

    def accuracy(self, logits: Tensor, labels: Tensor) -> float:
        return float((logits.argmax(-1) == labels).double().mean())

    def agreement(self, logits: Tensor, reference: Tensor) -> float:
        return self.accuracy(logits, reference.argmax(-1))

    def describe(self, logits: Tensor, names: Mapping[int, str]) -> list[str]:
        """Return the two likeliest classes with their probabilities."""
        likeliest = logits.double().softmax(-1).topk(min(2, len(logits)))
        return [
            f"{names.get(row, row)} {100 * share:.1f} %"
            for share, row in zip(likeliest.values.tolist(), likeliest.indices.tolist(), strict=True)
        ]
