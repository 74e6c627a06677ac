# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What a table of sensitivities is measured from, and the registries of methods and metrics.

A *method* makes the whole table: by swapping variants into the model, or from gradients. A *metric* says how much
worse some logits are than others; the method that swaps variants asks it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq.artifacts import SensitivityTable
from optimum_mixq.images.batches import Batch
from optimum_mixq.tasks import Task
from optimum_mixq.utils.bits import Bits


# Modules that take the place of a unit's own, by unit, bits and module name.
Variants = Mapping[str, Mapping[Bits, Mapping[str, nn.Module]]]
# From candidate bits to the model at the baseline's bits, and its units' variants at the candidates'.
Calibrate = Callable[[Sequence[Bits]], tuple[PreTrainedModel, Variants]]
# From a table to whether it needs no more images.
Enough = Callable[[SensitivityTable], bool]

# `SensitivityInputs.enough` is asked about the table of this many images, of twice as many, and so on.
FIRST_CHECK = 64


@dataclass(frozen=True)
class SensitivityInputs:
    """All that a method may use.

    With `enough`, a method that goes image by image may stop before the last one: it asks about the tables of the
    first `FIRST_CHECK` images, of twice as many, and so on. Then every run stops at the same image, however the images
    are batched and wherever it was interrupted.
    """

    model: PreTrainedModel  # the float model
    batches: Sequence[Batch]  # the images to measure on
    baseline: Bits  # of all units but the one that changes
    candidates: tuple[Bits, ...]
    calibrate: Calibrate
    metric: str = "shift"
    temperature: float = 1.0
    seed: int = 0
    progress_file: Path | None = None
    enough: Enough | None = None


@dataclass(frozen=True)
class Compared:
    """The logits (B, outputs) of a model with one changed unit, and what they are compared with."""

    task: Task
    logits: Tensor
    reference: Tensor  # (B, ...), as the logits
    labels: Tensor | None
    temperature: float


class Metric(ABC):
    """How much worse the logits of a changed model are."""

    name: ClassVar[str]
    needs_labels: ClassVar[bool] = False
    from_baseline: ClassVar[bool] = False  # whether the reference is the baseline's logits or the float model's

    @abstractmethod
    def damages(self, compared: Compared) -> Tensor:
        """Return the damage to each image (B,), in float64."""


class Method(ABC):
    """A way to measure what each unit's bits cost the network."""

    name: ClassVar[str]

    @abstractmethod
    def measure(self, inputs: SensitivityInputs, fingerprint: dict[str, str]) -> SensitivityTable:
        """Return the table, with this fingerprint.

        Where `inputs.progress_file` is given, what is done is saved there, and a run that was stopped goes on from it.
        """

    def settings(self) -> dict[str, Any]:
        """Return what the table depends on besides the inputs, for its fingerprint."""
        return {}

    def metrics(self) -> tuple[str, ...]:
        """Return the names of the metrics that the method can measure."""
        return tuple(_metrics)


_metrics: dict[str, Metric] = {}
_methods: dict[str, Method] = {}

SomeMetric = TypeVar("SomeMetric", bound=type[Metric])
SomeMethod = TypeVar("SomeMethod", bound=type[Method])


def register_metric(metric: SomeMetric) -> SomeMetric:
    """Add a metric under its name; of two with the same name, the one registered last is used."""
    _metrics[metric.name] = metric()
    return metric


def register_method(method: SomeMethod) -> SomeMethod:
    """Add a method under its name; of two with the same name, the one registered last is used."""
    _methods[method.name] = method()
    return method


def metric_names(method: str | None = None) -> tuple[str, ...]:
    """Return the names of all metrics, or of those that a method can measure."""
    return tuple(_metrics) if method is None else method_of(method).metrics()


def method_names() -> tuple[str, ...]:
    return tuple(_methods)


def metric_of(name: str) -> Metric:
    if name not in _metrics:
        raise ValueError(f"Expected metric to be one of {', '.join(_metrics)}, found {name!r}.")
    return _metrics[name]


def method_of(name: str) -> Method:
    if name not in _methods:
        raise ValueError(f"Expected sensitivity to be one of {', '.join(_methods)}, found {name!r}.")
    return _methods[name]
