# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""All that is told of one packed model, as data: `page.py` makes a page of it."""

import dataclasses
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from optimum_mixq.artifacts import BitPlan, LayerRelevance, SensitivityTable, UnitCosts
from optimum_mixq.reporting.comparison import Comparison, Contender
from optimum_mixq.reporting.frontier import FrontierPoint
from optimum_mixq.reporting.gallery import Disagreement, HeatMap
from optimum_mixq.utils.bits import Bits


# A model with fewer multiply-accumulates per image spends most of its time around its products. A ViT-S has 10^9.
SMALL_MACS = 300_000_000


@dataclass(frozen=True)
class Layer:
    """What one unit has and what it costs."""

    unit: str
    weight_bits: int | None  # None for a product of two activations, which has no weight
    activation_bits: int
    weights: int
    macs: int  # multiply-accumulates per image
    relevance: float | None  # share of the model's
    sensitivity: float | None  # damage at the unit's bits
    bytes: int


@dataclass(frozen=True)
class Report:
    """What was measured of one packed model, and what it was chosen from."""

    model: str  # the float model's name
    title: str
    date: str
    origin: tuple[str, ...]  # when, with what and by which command it was made, a line each
    comparison: Comparison
    plan: BitPlan
    uniform: Bits
    costs: UnitCosts
    relevance: LayerRelevance | None = None
    sensitivity: SensitivityTable | None = None
    predicted: tuple[BitPlan, ...] = ()  # the frontier by score
    score: float | None = None  # of the plan, by what the frontier's plans have least of
    score_name: str = "relevance x sensitivity"
    measured: tuple[FrontierPoint, ...] = ()  # the frontier by what packed models do on the images
    trained: bool = False  # the packed model, which the frontier's are not
    ends: str = "patch embedding and head at 8 bits"  # what is quantized outside the plan
    float_parts: dict[str, int] = dataclasses.field(default_factory=dict)
    heat_maps: tuple[HeatMap, ...] = ()
    disagreements: tuple[Disagreement, ...] = ()  # those shown
    disagreeing: int = 0  # images on which the predictions differ

    @property
    def contenders(self) -> tuple[Contender, ...]:
        return self.comparison.contenders

    @property
    def is_small(self) -> bool:
        """Return whether the model is so small that its time is spent around the products that are integers."""
        return sum(self.costs.macs.values()) < SMALL_MACS

    def layers(self) -> list[Layer]:
        return [self._layer(unit, bits) for unit, bits in self.plan.bits.items()]

    def as_json(self) -> dict[str, Any]:
        """Return what report.json holds (docs/report.md)."""
        contenders = [
            dataclasses.asdict(contender)
            | {"evaluation": dict(contender.evaluation), "accuracy_interval": contender.evaluation.accuracy_interval}
            for contender in self.contenders
        ]
        return {
            "title": self.title,
            "model": self.model,
            "date": self.date,
            "origin": self.origin,
            "dataset": self.comparison.describe_images(),
            "left_out": self.comparison.left_out,
            "machine": self.comparison.machine,
            "contenders": contenders,
            "bits": short_plan(self.plan),
            "plan": self.plan.provenance,
            "layers": [dataclasses.asdict(layer) for layer in self.layers()],
            "relevance": None if self.relevance is None else self.relevance.scores,
            "sensitivity": None if self.sensitivity is None else self.sensitivity.as_text(),
            "score": self.score,
            "frontier": [
                plan.provenance["achieved"] | {"objective": plan.provenance["objective"]} for plan in self.predicted
            ],
            "measured_frontier": [_point_as_json(point) for point in self.measured],
            "disagreeing": self.disagreeing,
            "float_parts": self.float_parts,
        }

    def _layer(self, unit: str, bits: Bits) -> Layer:
        weights = sum(self.costs.weights[unit])
        told = self.sensitivity is not None and self.sensitivity.tells(unit, bits)
        return Layer(
            unit,
            bits[0] if weights else None,
            bits[1],
            weights,
            self.costs.macs[unit],
            None if self.relevance is None else self.relevance.scores[unit],
            self.sensitivity.damage(unit, bits) if self.sensitivity is not None and told else None,
            self.costs.unit_bytes(unit, bits),
        )


def short_plan(plan: BitPlan) -> dict[str, int | Bits]:
    """Return the bits of each unit as one number where weights and activations have the same."""
    return {unit: bits.weight if bits.same else bits for unit, bits in plan.bits.items()}


def count_float_parts(model: PreTrainedModel) -> dict[str, int]:
    """Return what a packed model keeps in floating point: how many numbers, by the last words of their names."""
    counts: dict[str, int] = defaultdict(int)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            counts[".".join(name.split(".")[-2:])] += tensor.numel()
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _point_as_json(point: FrontierPoint) -> dict[str, Any]:
    evaluation = dataclasses.asdict(point.evaluation)
    return {
        **point.plan.provenance["achieved"], "megabytes": point.megabytes, "evaluation": evaluation,
        "bits": short_plan(point.plan),
    }  # fmt: skip
