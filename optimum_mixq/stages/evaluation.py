# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Measures a model on images: accuracy, and how close it stays to a reference model."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.architectures.measuring import measuring, threads_for
from optimum_mixq.images.batches import Batch
from optimum_mixq.images.labels import join_labels
from optimum_mixq.tasks import Task, run_model, task_of
from optimum_mixq.tasks.single_label import SingleLabel


@dataclass(frozen=True)
class Evaluation:
    """Scores over `images` images; None where labels or a reference were missing."""

    images: int
    accuracy: float | None  # share of images (or, of several labels, of labels) whose prediction is the label
    agreement: float | None  # share whose prediction is the reference's
    kl: float | None  # mean over images of KL(reference || model), in nats, or of the task's own divergence
    is_share: bool = True  # whether the accuracy counts images, so that it has a binomial interval

    def keys(self) -> Iterator[str]:
        """With `__getitem__`, what makes `dict(evaluation)` and `evaluation["accuracy"]` work."""
        return (field.name for field in fields(self) if field.name != "is_share")

    def __getitem__(self, name: str) -> int | float | None:
        return getattr(self, name)

    @property
    def accuracy_interval(self) -> tuple[float, float] | None:
        """Return the 95 % Wilson interval of the accuracy (Wilson 1927), where it is a share of images.

        >>> low, high = Evaluation(1000, 0.91, None, None).accuracy_interval
        >>> round(low, 4), round(high, 4)
        (0.8907, 0.9262)
        """
        if self.accuracy is None or not self.is_share:
            return None
        z, n, p = 1.959964, self.images, self.accuracy
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
        return centre - half, centre + half


def measure_logits(model: PreTrainedModel, batches: Iterable[Batch]) -> tuple[Tensor, Tensor | None]:
    """Return logits (N, ...) in float32 on the CPU, and labels (N, ...) or None, with the model in eval mode.

    What is called logits are embeddings where the model has no classifier.
    """
    logits, labels = measure_together({"model": model}, batches)
    return logits["model"], labels


def measure_together(
    models: Mapping[str, PreTrainedModel], batches: Iterable[Batch]
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Return each model's logits, as `measure_logits` does, in one pass over the batches, of which none is kept."""
    logits: dict[str, list[Tensor]] = {name: [] for name in models}
    labels: list[Tensor | None] = []
    for batch, outputs in run_together(models, batches):
        for name, found in outputs.items():
            logits[name].append(found)
        labels.append(batch.labels)
    if not labels:
        raise ValueError("There are no images to evaluate on: the source is empty.")
    known = [part for part in labels if part is not None]
    joined = {name: torch.cat(parts) for name, parts in logits.items()}
    return joined, join_labels(known) if len(known) == len(labels) else None


def measure_divergences(
    reference: PreTrainedModel,
    models: Mapping[str, PreTrainedModel],
    batches: Iterable[Batch],
    temperature: float,
    enough: Callable[[Mapping[str, Tensor]], bool],
    first_check: int,
) -> dict[str, Tensor]:
    """Return how far each model's logits are from the reference's, (images,) in float64: the task's divergence.

    `enough` is asked about the divergences of the first `first_check` images, of twice as many, and so on, however
    they lie in batches; once it says yes, no more images are run.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in models}
    task, images, check = task_of(reference), 0, first_check
    for batch, logits in run_together({"": reference, **models}, batches):
        expected, images = logits.pop("").double(), images + len(batch)
        for name, found in logits.items():
            parts[name].append(task.divergence(found.double(), expected, temperature))
        while images >= check:
            first = {name: torch.cat(rows)[:check] for name, rows in parts.items()}
            if enough(first):
                return first
            check *= 2
    return {name: torch.cat(rows) for name, rows in parts.items()}


def run_together(
    models: Mapping[str, PreTrainedModel], batches: Iterable[Batch]
) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
    """Yield each batch with every model's logits (B, ...), in float32 on the CPU; the models are in eval mode."""
    first = next(iter(models.values()))
    with ExitStack() as stack:
        for model in models.values():
            stack.enter_context(measuring(model))
        for batch in batches:
            # Not around the yield: they would hold for the caller too.
            with threads_for(first), torch.inference_mode():
                outputs = {
                    name: run_model(model, batch.pixel_values.to(model.device, model.dtype)).float().cpu()
                    for name, model in models.items()
                }
            yield batch, outputs


def measure_latency(models: Mapping[str, PreTrainedModel], pixel_values: Tensor, repeats: int = 5) -> dict[str, float]:
    """Return each model's milliseconds per image: medians over `repeats`, the models taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    task = task_of(next(iter(models.values())))
    with ExitStack() as stack, torch.inference_mode():
        for model in models.values():
            stack.enter_context(measuring(model))
        for repeat in range(repeats + 1):
            for name, model in models.items():
                pixels = pixel_values.to(model.device, model.dtype)
                started = time.perf_counter()
                task.logits(model, model(pixel_values=pixels)).sum().item()  # waits for the device
                if repeat:  # the first warms up
                    seconds[name].append(time.perf_counter() - started)
    return {name: 1000 * statistics.median(times) / len(pixel_values) for name, times in seconds.items()}


def score(
    logits: Tensor, labels: Tensor | None, reference: Tensor | None = None, task: Task | None = None
) -> Evaluation:
    """Return the scores of `logits` (N, ...) against labels and a reference's logits of the same shape.

    Without a task there is one class per image.
    """
    task = task or SingleLabel()
    accuracy = None if labels is None else task.accuracy(logits, labels)
    if reference is None:
        return Evaluation(len(logits), accuracy, None, None, task.accuracy_is_share)
    divergence = task.divergence(logits.double(), reference.double()).mean()
    return Evaluation(
        len(logits), accuracy, task.agreement(logits, reference), float(divergence), task.accuracy_is_share
    )
