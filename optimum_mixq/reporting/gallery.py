# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Images that a report shows: where the packed model departs from the float one, and what the float one looks at."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.images.batches import Batch
from optimum_mixq.stages.evaluation import measure_logits
from optimum_mixq.stages.relevance.measure import explain
from optimum_mixq.tasks import Task, task_of


@dataclass(frozen=True)
class HeatMap:
    pixels: Tensor  # (C, H, W)
    relevance: Tensor  # (H, W)
    caption: str


@dataclass(frozen=True)
class Disagreement:
    """An image on which the two models differ, and what each says, the main answer first."""

    pixels: Tensor  # (C, H, W)
    label: str | None
    float_answer: tuple[str, ...]
    packed_answer: tuple[str, ...]
    divergence: float


class Gallery:
    """Picks images from batches that go by: the first ones, and those on which two models differ most.

    It holds `first` + `differing` images, however many go by.
    """

    def __init__(self, model: PreTrainedModel, first: int = 8, differing: int = 6) -> None:
        self.task: Task = task_of(model)
        self.names: Mapping[int, str] = model.config.id2label or {}
        self.limit, self.differing = first, differing
        self.first: list[Tensor] = []  # (C, H, W) each
        self.disagreeing = 0  # images whose prediction is another one
        self._seen = 0
        self._heap: list[tuple[float, int, Disagreement]] = []  # the least divergence on top

    def add(self, batch: Batch, reference: Tensor, found: Tensor) -> None:
        """Look at a batch with the float model's logits (B, ...) and the packed model's."""
        missing = self.limit - len(self.first)
        self.first += [image.cpu().clone() for image in batch.pixel_values[:missing]] if missing > 0 else []
        divergences = self.task.divergence(found.double(), reference.double()).tolist()
        for row, divergence in enumerate(divergences):
            self._seen += 1
            agreement = self.task.agreement(found[row : row + 1], reference[row : row + 1])
            self.disagreeing += agreement is not None and agreement < 1
            if agreement == 1 or divergence <= 0:
                continue
            if len(self._heap) < self.differing or divergence > self._heap[0][0]:
                self._keep(divergence, self._describe(batch, row, reference[row], found[row], divergence))

    def disagreements(self) -> tuple[Disagreement, ...]:
        """Return the images that differ most, the greatest divergence first."""
        return tuple(entry for _, _, entry in sorted(self._heap, key=lambda item: (-item[0], item[1])))

    def heat_maps(self, model: PreTrainedModel, count: int) -> tuple[HeatMap, ...]:
        """Return where the model's predictions come from on the first images."""
        pixels = torch.stack(self.first[:count])
        relevance = explain(model, pixels).detach().cpu()
        logits, _ = measure_logits(model, [Batch(pixels, None, ())])
        answers = [self.task.describe(row, self.names)[0] for row in logits]
        return tuple(map(HeatMap, pixels, relevance, answers))

    def _keep(self, divergence: float, entry: Disagreement) -> None:
        heapq.heappush(self._heap, (divergence, self._seen, entry))
        if len(self._heap) > self.differing:
            heapq.heappop(self._heap)

    def _describe(self, batch: Batch, row: int, reference: Tensor, found: Tensor, divergence: float) -> Disagreement:
        float_answer, packed_answer = (tuple(self.task.describe(logits, self.names)) for logits in (reference, found))
        pixels = batch.pixel_values[row].cpu().clone()  # not a view, which would hold its whole batch
        label = None if batch.labels is None else self.task.describe_label(batch.labels[row], self.names)
        return Disagreement(pixels, label, float_answer, packed_answer, divergence)
