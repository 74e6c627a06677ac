# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Adds up what predictions are worth over the batches of a pass, where that is no mean over images, too."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from optimum_mixq.images.labels import join_labels


class Meter(ABC):
    """One pass over images. Its state can be pickled: the processes of a training send it to one another."""

    @abstractmethod
    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch's logits (B, ...) and labels (B, ...), both on the CPU."""

    @abstractmethod
    def merge(self, other: Any) -> None:
        """Add what another meter of the same kind has seen."""

    @abstractmethod
    def value(self) -> float | None:
        """Return the score of all that was added, from 0 to 1, or None where the task has none."""


class MeanMeter(Meter):
    """The mean over images of a score that one batch alone has."""

    def __init__(self, score: Callable[[Tensor, Tensor], float | None]) -> None:
        self.score, self.images = score, 0
        self.total: float | None = 0.0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        found = self.score(logits, labels)
        self.images += len(logits)
        self.total = None if self.total is None or found is None else self.total + found * len(logits)

    def merge(self, other: "MeanMeter") -> None:
        self.images += other.images
        self.total = None if self.total is None or other.total is None else self.total + other.total

    def value(self) -> float | None:
        return None if self.total is None or self.images == 0 else self.total / self.images


class WholeMeter(Meter):
    """A score that compares images with each other: it keeps the logits of all."""

    def __init__(self, score: Callable[[Tensor, Tensor], float | None]) -> None:
        self.score = score
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        self.logits.append(logits)
        self.labels.append(labels)

    def merge(self, other: "WholeMeter") -> None:
        self.logits += other.logits
        self.labels += other.labels

    def value(self) -> float | None:
        return self.score(torch.cat(self.logits), join_labels(self.labels)) if self.logits else None


def join_meters(meters: Sequence[Meter]) -> Meter:
    """Return the first meter with what all of them have seen."""
    first, *others = meters
    for other in others:
        first.merge(other)
    return first
