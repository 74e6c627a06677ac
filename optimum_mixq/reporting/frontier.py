# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The best plans from the fewest to the most bits: predicted by their score, and some of them packed and measured."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.artifacts import BitPlan, LayerRelevance, SensitivityTable, UnitCosts
from optimum_mixq.config import MixQConfig
from optimum_mixq.pipeline import quantize_model, sweep_plans
from optimum_mixq.stages.allocation.allocate import combine_scores
from optimum_mixq.stages.allocation.candidates import require_plan_exists
from optimum_mixq.stages.evaluation import Evaluation
from optimum_mixq.utils.bits import LARGEST_BITS, SMALLEST_BITS, Bits


@dataclass(frozen=True)
class FrontierPoint:
    """A plan that was packed and run on the report's images."""

    plan: BitPlan
    megabytes: float  # 10^6 bytes of its file
    evaluation: Evaluation

    @property
    def average_bits(self) -> float:
        return float(self.plan.provenance["achieved"]["average_bits"])


@dataclass(frozen=True)
class Measurements:
    """What plans are made from, and which widths it was measured at."""

    model: PreTrainedModel
    costs: UnitCosts
    relevance: LayerRelevance | None
    sensitivity: SensitivityTable
    config: MixQConfig

    def predicted_plans(self) -> tuple[BitPlan, ...]:
        """Return the plans of least score in steps of half a bit, without the fewest bits of all."""
        averages = self.averages(0.5)
        return self._plans_at([average for average in averages if average > measured_widths(self.sensitivity)[0][0]])

    def spread_plans(self, count: int) -> tuple[BitPlan, ...]:
        """Return at most `count` plans of least score, evenly from the fewest bits to the most, each plan once."""
        averages = self.averages(0.25)
        if not averages or count < 1:
            return ()
        step = (averages[-1] - averages[0]) / max(count - 1, 1)
        wanted = {round(averages[-1] - step * number, 2) for number in range(count)}
        plans = self._plans_at(sorted(wanted))
        return tuple(
            plan for number, plan in enumerate(plans) if plan.bits not in [one.bits for one in plans[:number]]
        )

    def averages(self, step: float) -> list[float]:
        """Return the averages of bits that have a plan, from the fewest bits that were measured to the most."""
        widths, _ = measured_widths(self.sensitivity)
        if len(widths) < 2:
            return []
        config = self._sweeping()
        averages = [widths[0] + step * number for number in range(round((widths[-1] - widths[0]) / step) + 1)]
        return [average for average in averages if _has_plan(config, self.costs, average)]

    def score(self, plan: BitPlan) -> float | None:
        """Return the plan's total score, or None where its bits were not measured."""
        if not all(self.sensitivity.tells(unit, bits) for unit, bits in plan.bits.items()):
            return None
        bits_of_units = {unit: [bits] for unit, bits in plan.bits.items()}
        scores = combine_scores(self.relevance, self.sensitivity, bits_of_units, self.config.alpha)
        return math.fsum(scores[unit][bits] for unit, bits in plan.bits.items())

    def _plans_at(self, averages: Sequence[float]) -> tuple[BitPlan, ...]:
        return tuple(sweep_plans(self.model, self.relevance, self.sensitivity, self._sweeping(), averages))

    def _sweeping(self) -> MixQConfig:
        """Return the configuration with the widths that were measured, and without its budget."""
        widths, tied = measured_widths(self.sensitivity)
        return MixQConfig(
            candidate_bits=tuple(widths), tie_bits=tied, arithmetic=self.config.arithmetic, alpha=self.config.alpha,
            solver=self.config.solver, overrides=self.config.overrides, exclude=self.config.exclude,
        )  # fmt: skip


def pack_plans(
    model: PreTrainedModel, plans: Sequence[BitPlan], calibration: Sequence[Tensor], config: MixQConfig
) -> list[PreTrainedModel]:
    """Return the packed model of each plan, calibrated on the same images as the model of the report was."""
    return [
        quantize_model(
            model, plan, calibration, config, description=f"Calibrating size {number} of {len(plans)} of the frontier"
        )
        for number, plan in enumerate(plans, 1)
    ]


def name_score(alpha: float, relevance: LayerRelevance | None) -> str:
    """Return what a plan's score is made of.

    >>> name_score(0.5, LayerRelevance({}, 0.0, 1)), name_score(1, None)
    ('relevance^0.5 x sensitivity', 'sensitivity')
    """
    if relevance is None or alpha == 0:
        return "sensitivity"
    return "relevance x sensitivity" if alpha == 1 else f"relevance^{alpha:g} x sensitivity"


def measured_widths(sensitivity: SensitivityTable) -> tuple[list[int], bool]:
    """Return the widths that every unit was measured at, and whether weights and activations had them together."""
    weight_bits, input_bits = sensitivity.baseline
    widths = [bits for bits in range(SMALLEST_BITS, LARGEST_BITS + 1) if bits not in sensitivity.baseline]
    together = [bits for bits in widths if sensitivity.covers([Bits(bits, bits)])]
    apart = [bits for bits in widths if sensitivity.covers([Bits(bits, input_bits), Bits(weight_bits, bits)])]
    return (together, True) if len(together) > len(apart) else (apart, False)


def _has_plan(config: MixQConfig, costs: UnitCosts, average: float) -> bool:
    """Return whether any plan keeps an average: `overrides` and `exclude` may ask for more bits than it allows."""
    try:
        require_plan_exists(dataclasses.replace(config, bits=average).budget, costs)
    except ValueError:
        return False
    return True
