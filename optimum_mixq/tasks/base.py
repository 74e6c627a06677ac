# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What every task answers, and which one a model has."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageClassification, PreTrainedModel

from optimum_mixq.images.moves import Move
from optimum_mixq.tasks.meters import MeanMeter, Meter
from optimum_mixq.utils.checks import require_one_of


class Task(ABC):
    """How the logits of one kind of head are compared, explained, trained, scored and put in words.

    Logits have any shape (B, ...): (B, outputs) for one answer per image, (B, classes, H, W) for one per pixel. Where
    a model has no head, its embeddings take their place. Labels are a tensor (B, ...), too.
    """

    hub_task = "image-classification"  # what the Hub and transformers' pipelines call it
    auto_class: type[Any] = AutoModelForImageClassification  # what loads such models
    accuracy_name = "top-1"  # what people call `accuracy`
    divergence_name = "KL to float"  # what people call the mean `divergence` from the float model
    accuracy_metric = "accuracy"  # its name in a card's index of results
    divergence_metric: str | None = None  # that of the divergence; None keeps it out of there
    lacks_loss: str | None = None  # why there is no loss against labels, and what to do, in sentences
    predicts_labels = True  # whether `predicted` tells what a label might be
    mixes_targets = True  # whether a share of one target plus a share of another is a target
    accuracy_is_share = True  # whether `accuracy` counts images that are right, so that it has a binomial interval

    @property
    def has_loss(self) -> bool:
        """Whether there is a loss against labels."""
        return self.lacks_loss is None

    @abstractmethod
    def handles(self, model: PreTrainedModel) -> bool:
        """Return whether this is the task of the model."""

    def logits(self, model: PreTrainedModel, outputs: Mapping[str, Any]) -> Tensor:
        """Return the logits (B, ...) among what the model's forward returned."""
        return outputs["logits"]

    @abstractmethod
    def divergence(self, logits: Tensor, reference: Tensor, temperature: float = 1.0) -> Tensor:
        """Return how far the logits are from the reference's, image by image (B,); zero where they mean the same."""

    @abstractmethod
    def probe(self, logits: Tensor, signs: Tensor, temperature: float = 1.0) -> Tensor:
        """Return v (B, ...) with E[v v^T] = F where signs (B, ...) are random with E[signs signs^T] = 1.

        F is the curvature of the divergence: for a small change d of the logits it is close to d^T F d / 2, so that
        E[(v^T d)^2] / 2 is the divergence.
        """

    @abstractmethod
    def explained(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        """Return the weight (B, ...) of each logit in what relevance explains; those of an image sum to one."""

    def predicted(self, logits: Tensor) -> Tensor | None:
        """Return the labels that the logits predict, as a batch holds them, or None where labels are numbers."""
        return None

    @abstractmethod
    def targets(self, labels: Tensor, outputs: int) -> Tensor:
        """Return labels as targets (B, ...), float32: (B, outputs) where they may be mixed with one another.

        `outputs` is the length of the last dimension of the logits.
        """

    def unknown_target(self, pixels: Tensor, outputs: int) -> Tensor:
        """Return NaN in the shape of a target (...), for an image (C, H, W) without a label."""
        return torch.full((outputs,), torch.nan)

    def move_labels(self, labels: Tensor, move: Move) -> Tensor:
        """Return the labels (1, ...) of an image that is moved: the same, unless they say where something is."""
        return labels

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the loss against targets (B, ...), image by image (B,)."""

    @abstractmethod
    def accuracy(self, logits: Tensor, labels: Tensor) -> float | None:
        """Return how good the predictions for these images are, from 0 to 1, or None where the task has no such score.

        For most tasks that is the share of right ones.
        """

    def meter(self) -> Meter:
        """Return what adds up `accuracy` over the batches of a pass: a mean over images, unless said otherwise."""
        return MeanMeter(self.accuracy)

    @abstractmethod
    def agreement(self, logits: Tensor, reference: Tensor) -> float | None:
        """Return the share of predictions that are the reference's, or None where the task has none."""

    def describe(self, logits: Tensor, names: Mapping[int, str]) -> list[str]:
        """Return what the logits (...) of one image say, the main answer first; `names` are those of outputs."""
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
    """Return the logits (B, ...) of images (B, C, H, W), or their embeddings, whatever the model's task is."""
    return task_of(model).logits(model, model(pixel_values=pixel_values))


def auto_class_named(hub_task: str) -> type[Any]:
    """Return the class of transformers that loads models of a task; an unknown name raises a ValueError."""
    classes = {task.hub_task: task.auto_class for task in _tasks}
    require_one_of("task", tuple(sorted(classes)), hub_task)
    return classes[hub_task]
