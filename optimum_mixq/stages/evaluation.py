# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Measures a classifier on images: top-1, and how close it stays to a reference model."""

import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.data import Batch
from optimum_mixq.losses import distill


@dataclass(frozen=True)
class Evaluation:
    """Scores over `images` images; None where labels or a reference were missing."""

    images: int
    accuracy: float | None  # share of images whose prediction is the label
    agreement: float | None  # share of images whose prediction is the reference's
    kl: float | None  # mean over images of KL(reference || model), in nats

    def keys(self) -> Iterator[str]:
        """With `__getitem__`, what makes `dict(evaluation)` and `evaluation["accuracy"]` work."""
        return (field.name for field in fields(self))

    def __getitem__(self, name: str) -> int | float | None:
        return getattr(self, name)

    @property
    def accuracy_interval(self) -> tuple[float, float] | None:
        """Return the 95 % Wilson interval of the accuracy (Wilson 1927).

        >>> low, high = Evaluation(1000, 0.91, None, None).accuracy_interval
        >>> round(low, 4), round(high, 4)
        (0.8907, 0.9262)
        """
        if self.accuracy is None:
            return None
        z, n, p = 1.959964, self.images, self.accuracy
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
        return centre - half, centre + half


def measure_logits(model: PreTrainedModel, batches: Iterable[Batch]) -> tuple[Tensor, Tensor | None]:
    """Return logits (N, classes) in float32 on the CPU, and labels (N,) or None, with the model in eval mode."""
    logits, labels = measure_together({"model": model}, batches)
    return logits["model"], labels


def measure_together(
    models: Mapping[str, PreTrainedModel], batches: Iterable[Batch]
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Return each model's logits, as `measure_logits` does, in one pass over the batches, of which none is kept."""
    were_training = {name: model.training for name, model in models.items()}
    logits: dict[str, list[Tensor]] = {name: [] for name in models}
    labels: list[Tensor | None] = []
    try:
        with torch.inference_mode():
            for batch in batches:
                for name, model in models.items():
                    outputs = model.eval()(pixel_values=batch.pixel_values.to(model.device))
                    logits[name].append(outputs.logits.float().cpu())
                labels.append(batch.labels)
    finally:
        for name, model in models.items():
            model.train(were_training[name])
    if not labels:
        raise ValueError("There are no images to evaluate on: the source is empty.")
    known = [part for part in labels if part is not None]
    joined = {name: torch.cat(parts) for name, parts in logits.items()}
    return joined, torch.cat(known) if len(known) == len(labels) else None


def measure_latency(models: Mapping[str, PreTrainedModel], pixel_values: Tensor, repeats: int = 5) -> dict[str, float]:
    """Return each model's milliseconds per image: medians over `repeats`, the models taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for repeat in range(repeats + 1):
            for name, model in models.items():
                pixels = pixel_values.to(model.device)
                started = time.perf_counter()
                model(pixel_values=pixels).logits.sum().item()  # waits for the device
                if repeat:  # the first warms up
                    seconds[name].append(time.perf_counter() - started)
    return {name: 1000 * statistics.median(times) / len(pixel_values) for name, times in seconds.items()}


def score(logits: Tensor, labels: Tensor | None, reference: Tensor | None = None) -> Evaluation:
    """Return the scores of `logits` (N, classes) against labels (N,) and a reference's logits (N, classes)."""
    predictions = logits.argmax(-1)
    accuracy = None if labels is None else _accuracy(predictions, labels)
    if reference is None:
        return Evaluation(len(logits), accuracy, None, None)
    agreement = _accuracy(predictions, reference.argmax(-1))
    return Evaluation(len(logits), accuracy, agreement, float(distill(logits.double(), reference.double())))


def _accuracy(predictions: Tensor, references: Tensor) -> float:
    return float((predictions == references).double().mean())
