# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Object detection: for each of a fixed number of queries, a class or none, and a box.

The logits (B, Q, K + 5) are K + 1 class logits, of which the last is that of no object, and a box as center, width and
height in parts of the image's sides. Labels are those of `images/objects.py`.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForObjectDetection, PreTrainedModel

from optimum_mixq.architectures.further import serves
from optimum_mixq.tasks.average_precision import AveragePrecision, overlap
from optimum_mixq.tasks.base import Task, register_task
from optimum_mixq.tasks.meters import Meter
from optimum_mixq.tasks.single_label import SingleLabel


# Numbers of a box, at the end of the logits.
BOX = 4
# What a query counts for that the reference is sure to be empty: transformers' loss weighs it so (`eos_coefficient`).
EMPTY_WEIGHT = 0.1
# An error of a box that costs half a nat, in parts of the box's own side, and the least side that it is measured by.
BOX_DEVIATION, LEAST_SIDE = 0.1, 0.02
# From which confidence on an object is told, and overlap from which on two boxes are the same.
TOLD, SAME = 0.5, 0.5


@register_task
class ObjectDetection(Task):
    hub_task = "object-detection"
    auto_class = AutoModelForObjectDetection
    accuracy_name = "mAP"
    accuracy_metric = "mean_average_precision"
    divergence_name = "divergence of classes and boxes"
    # transformers' own loss takes a model, and a batch as a whole, and needs scipy.
    lacks_loss = (
        "Models learn from the float model alone. To learn from objects, give transformers' Trainer what "
        "prepare_for_training(...) returns, which has its own loss (it needs scipy)."
    )
    predicts_labels = False
    mixes_targets = False
    accuracy_is_share = False

    def handles(self, model: PreTrainedModel) -> bool:
        return serves(model, self.hub_task)

    def logits(self, model: PreTrainedModel, outputs: Mapping[str, Any]) -> Tensor:
        return torch.cat([outputs["logits"], outputs["pred_boxes"]], -1)

    def divergence(self, logits: Tensor, reference: Tensor, temperature: float = 1.0) -> Tensor:
        """Return the sum over queries of T^2 KL of classes, weighted, and of half the squared error of boxes.

        With w the reference's confidence that a query holds an object, classes are weighted by w + 0.1 (1 - w), and
        boxes by w. A box's error is measured by a tenth of its sides.
        """
        classes = SingleLabel().divergence(logits[..., :-BOX], reference[..., :-BOX], temperature)  # (B, Q)
        boxes = ((logits - reference)[..., -BOX:] / _deviations(reference)).square().sum(-1) / 2
        objects = _objects(reference)
        return (_class_weights(objects) * classes + objects * boxes).sum(-1)

    def probe(self, logits: Tensor, signs: Tensor, temperature: float = 1.0) -> Tensor:
        """Return the probe of each query's classes and signs / deviation of its box, both times the root of a weight.

        F has a block diag(p) - p p^T for the classes of a query, and a diagonal for its box.
        """
        objects = _objects(logits)[..., None]
        classes = SingleLabel().probe(logits[..., :-BOX], signs[..., :-BOX], temperature)
        boxes = signs[..., -BOX:] / _deviations(logits)
        return torch.cat([_class_weights(objects).sqrt() * classes, objects.sqrt() * boxes], -1)

    def explained(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        """Return, for each query in proportion to its confidence, half for its class and an eighth for each number.

        The class is the likeliest one beside none. Labels are not asked: they do not say which query is to find what.
        """
        objects = _objects(logits)
        shares = objects / objects.sum(-1, keepdim=True).clamp(min=torch.finfo(logits.dtype).tiny)
        weights = torch.zeros_like(logits)
        weights.scatter_(-1, logits[..., : -BOX - 1].argmax(-1, keepdim=True), 0.5)
        weights[..., -BOX:] = 0.5 / BOX
        return shares[..., None] * weights

    def targets(self, labels: Tensor, outputs: int) -> Tensor:
        """Return targets without numbers (B, 0): training is by distillation."""
        return torch.empty(len(labels), 0)

    def unknown_target(self, pixels: Tensor, outputs: int) -> Tensor:
        return torch.empty(0)

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        raise ValueError(f"Expected a task with a loss against labels, found object detection. {self.lacks_loss}")

    def accuracy(self, logits: Tensor, labels: Tensor) -> float | None:
        """Return the mean average precision over IoU from 0.5 to 0.95, as COCO defines it; None without objects."""
        meter = AveragePrecision(detections)
        meter.add(logits, labels)
        return meter.value()

    def meter(self) -> Meter:
        return AveragePrecision(detections)

    def agreement(self, logits: Tensor, reference: Tensor) -> float:
        """Return the share of queries with the same class and overlapping boxes, of those where either has an object.

        An object is told from a confidence of one half on, and boxes overlap from an IoU of one half on.
        """
        (found, expected), (boxes, wanted) = zip(*map(_told, (logits, reference)), strict=True)
        told = (found >= 0) | (expected >= 0)
        same = (found == expected) & (overlap(boxes, wanted) >= SAME)
        return float((same & told).sum() / told.sum()) if told.any() else 1.0

    def describe(self, logits: Tensor, names: Mapping[int, str]) -> list[str]:
        """Return the objects that are told, at most five, with their confidence, the surest first."""
        found = detections(logits[None].double())[0]
        told = found[found[:, 1] >= TOLD]
        told = told[told[:, 1].argsort(descending=True)][:5]
        return [f"{names.get(int(row[0]), int(row[0]))} {100 * float(row[1]):.1f} %" for row in told] or ["no object"]

    def describe_label(self, label: Tensor, names: Mapping[int, str]) -> str:
        """Return how many objects of which classes there are."""
        counts = Counter(int(row[0]) for row in label if not row[0].isnan())
        return ", ".join(f"{count} {names.get(number, number)}" for number, count in sorted(counts.items())) or (
            "no object"
        )


def detections(logits: Tensor) -> Tensor:
    """Return the likeliest class of each query, its confidence and its box (B, Q, 6), as transformers does."""
    confidences, classes = logits[..., :-BOX].softmax(-1)[..., :-1].max(-1)
    return torch.cat([classes[..., None].to(logits), confidences[..., None], logits[..., -BOX:]], -1)


def _told(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the class of each query (B, Q), -1 for none, and its box (B, Q, 4)."""
    found = detections(logits)
    return found[..., 0].where(found[..., 1] >= TOLD, -1), found[..., 2:]


def _objects(logits: Tensor) -> Tensor:
    """Return the confidence (B, Q) that a query holds an object; it is a weight, and gets no gradient."""
    return 1 - logits.detach()[..., :-BOX].softmax(-1)[..., -1]


def _class_weights(objects: Tensor) -> Tensor:
    return objects + EMPTY_WEIGHT * (1 - objects)


def _deviations(logits: Tensor) -> Tensor:
    """Return what the errors of boxes (B, Q, 4) are measured by: horizontal ones by the width, others by height."""
    sides = logits.detach()[..., -2:].clamp(min=LEAST_SIDE)
    return BOX_DEVIATION * torch.cat([sides, sides], -1)
