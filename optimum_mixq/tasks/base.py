# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What every task answers, and which one a model has."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import AutoModelForImageClassification, PreTrainedModel

from optimum_mixq.utils.checks import require_one_of


class Task(ABC):
    """How the logits (B, outputs) of one kind of head are compared, explained, trained, scored and put in words.

    Where a model has no head, its embeddings take the place of logits.
    """

    hub_task = "image-classification"  # what the Hub and transformers' pipelines call it
    auto_class: type[Any] = AutoModelForImageClassification  # what loads such models
    accuracy_name = "top-1"  # what people call `accuracy`
    divergence_name = "KL to float"  # what people call the mean `divergence` from the float model
    divergence_metric: str | None = None  # its name in a card's index of results; None keeps it out of there
    has_loss = True  # whether there is a loss against labels
    compares_images = False  # whether `accuracy` compares images with each other, and so needs all of them at once

    @abstractmethod
    def handles(self, model: PreTrainedModel) -> bool:
        """Return whether this is the task of the model."""

    def logits(self, model: PreTrainedModel, outputs: Mapping[str, Any]) -> Tensor:
        """Return the logits (B, outputs) among what the model's forward returned."""
        return outputs["logits"]

    @abstractmethod
    def divergence(self, logits: Tensor, reference: Tensor, temperature: float = 1.0) -> Tensor:
        """Return how far the logits are from the reference's, image by image (B,); zero where they mean the same."""

    @abstractmethod
    def probe(self, logits: Tensor, signs: Tensor, temperature: float = 1.0) -> Tensor:
        """Return v (B, outputs) with E[v v^T] = F where signs (B, outputs) are random with E[signs signs^T] = 1.

        F is the curvature of the divergence: for a small change d of the logits it is close to d^T F d / 2, so that
        E[(v^T d)^2] / 2 is the divergence.
        """

    @abstractmethod
    def explained(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        """Return the weight (B, outputs) of each logit in what relevance explains; each row sums to one."""

    def predicted(self, logits: Tensor) -> Tensor | None:
        """Return the labels that the logits predict, as a batch holds them, or None where labels are numbers."""
        return None

    @abstractmethod
    def targets(self, labels: Tensor, outputs: int) -> Tensor:
        """Return labels as targets (B, outputs), float32, which may be mixed with one another."""

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the loss against targets (B, outputs), image by image (B,)."""

    @abstractmethod
    def accuracy(self, logits: Tensor, labels: Tensor) -> float | None:
        """Return the share of right predictions, or None where the task has none."""

    @abstractmethod
    def agreement(self, logits: Tensor, reference: Tensor) -> float | None:
        """Return the share of predictions that are the reference's, or None where the task has none."""

    def describe(self, logits: Tensor, names: Mapping[int, str]) -> list[str]:
        """Return what the logits (outputs,) of one image say, the main answer first; `names` are those of outputs."""
        return [
            f"{names.get(row, row)} {float(logits[row]):.4g}"
            for row in logits.topk(min(2, len(logits))).indices.tolist()
        ]

    def describe_label(self, label: Tensor, names: Mapping[int, str]) -> str:
        """Return the label of one image in words."""
        return str(names.get(int(label), int(label)))


_tasks: list[Task] = []


def register_task(task: type[Task]) -> type[Task]:
    """Add a task. The one registered last is asked first."""
    _tasks.insert(0, task())
    return task


def task_of(model: PreTrainedModel) -> Task:
    """Return the task of a model, by its configuration: `problem_type` and the number of labels."""
    for task in _tasks:
        if task.handles(model):
            return task
    raise ValueError(
        f"Expected a model with problem_type 'single_label_classification', 'multi_label_classification' or "
        f"'regression', found {model.config.problem_type!r}. Set model.config.problem_type to one of them."
    )


def run_model(model: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """Return the logits (B, outputs) of images (B, C, H, W), or their embeddings, whatever the model's task is."""
    return task_of(model).logits(model, model(pixel_values=pixel_values))


def auto_class_named(hub_task: str) -> type[Any]:
    """Return the class of transformers that loads models of a task; an unknown name raises a ValueError."""
    classes = {task.hub_task: task.auto_class for task in _tasks}
    require_one_of("task", tuple(sorted(classes)), hub_task)
    return classes[hub_task]
