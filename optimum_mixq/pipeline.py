# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""START HERE: the method, one call per stage."""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.artifacts import BitPlan, Bits, LayerRelevance, SensitivityTable, UnitCosts
from optimum_mixq.config import MixQConfig
from optimum_mixq.data import Batch
from optimum_mixq.hub import attach
from optimum_mixq.stages.allocation import Budget, allocate, combine_scores, sweep
from optimum_mixq.stages.calibration import calibrate, calibrate_variants
from optimum_mixq.stages.conversion import pack, pack_layer
from optimum_mixq.stages.costs import measure_costs
from optimum_mixq.stages.relevance import measure_relevance
from optimum_mixq.stages.sensitivity import measure_sensitivity


def quantize_model(
    model: PreTrainedModel, plan: BitPlan, pixel_batches: Sequence[Tensor], config: MixQConfig
) -> PreTrainedModel:
    """Return a packed copy of `model` with the bits of `plan`, ready to run, save and share."""
    prepared = calibrate(model, plan, pixel_batches, config)  # 4: ranges, reparameterisation, rounding
    packed = pack(prepared)  # 5: integer codes
    return attach(packed, plan, config)


def choose_plan(
    model: PreTrainedModel,
    calibration: Sequence[Tensor],
    batches: Sequence[Batch],
    config: MixQConfig,
    progress_file: Path | None = None,
) -> tuple[BitPlan, LayerRelevance, SensitivityTable]:
    """Return the mixed-precision plan of a model within the configuration's budget, and what it was chosen from."""
    relevance = measure_relevance(
        model, batches, config.score, sum(map(len, batches))
    )  # 1: what passes through each unit
    sensitivity = sense(model, calibration, batches, config, progress_file)  # 2: what each width costs
    return plan_within_budget(model, relevance, sensitivity, config), relevance, sensitivity  # 3: the best plan


def sense(
    model: PreTrainedModel,
    calibration: Sequence[Tensor],
    batches: Sequence[Batch],
    config: MixQConfig,
    progress_file: Path | None = None,
) -> SensitivityTable:
    """Return the sensitivity of every unit at every candidate width, around the uniform baseline."""
    around = (config.baseline, config.baseline)
    candidates = measured_bits(config, target_bits(config, measure_costs(model, config.arithmetic)))
    baseline, variants = calibrate_variants(model, BitPlan.uniform(model, around), calibration, config, candidates)
    packed = {
        unit: {bits: {name: pack_layer(module) for name, module in modules.items()} for bits, modules in row.items()}
        for unit, row in variants.items()
    }
    images = sum(map(len, batches))
    settings = {name: value for name, value in asdict(config).items() if name in _SETTINGS_OF_SENSITIVITY}
    return measure_sensitivity(
        model, pack(baseline), around, packed, batches, config.metric, images, progress_file, settings
    )


def plan_within_budget(
    model: PreTrainedModel, relevance: LayerRelevance | None, sensitivity: SensitivityTable, config: MixQConfig
) -> BitPlan:
    """Return the best plan within the configuration's budget."""
    costs = measure_costs(model, config.arithmetic)
    candidates = candidate_bits(config, target_bits(config, costs))
    scores = combine_scores(relevance, sensitivity, candidates, config.alpha)
    return allocate(scores, costs, budget_of(config, costs), config.overrides, config.exclude, solver=config.solver)


def sweep_plans(
    model: PreTrainedModel,
    relevance: LayerRelevance | None,
    sensitivity: SensitivityTable,
    config: MixQConfig,
    average_bits: Sequence[float],
) -> list[BitPlan]:
    """Return the best plan for each average of bits, from the same measurements: the whole frontier."""
    costs = measure_costs(model, config.arithmetic)
    candidates = tuple((bits, bits) for bits in config.candidate_bits or (2, 3, 4, 5, 6))
    scores = combine_scores(relevance, sensitivity, candidates, config.alpha)
    budgets = [budget_of(replace(config, bits=float(bits)), costs) for bits in average_bits]
    return sweep(scores, costs, budgets, config.overrides, config.exclude, config.solver)


def budget_of(config: MixQConfig, costs: UnitCosts) -> Budget:
    """Return the limits that a configuration sets: `bits` stands for average bits and for uniform bit operations."""
    size = None if config.size_mb is None else int(config.size_mb * 1e6)
    limits = [] if config.bops is None else [math.floor(config.bops)]
    average = None
    if config.bits is not None:
        weight_bits, input_bits = config.bits if isinstance(config.bits, tuple) else (config.bits, config.bits)
        average = float(weight_bits)
        limits.append(_uniform_bops(costs, weight_bits, input_bits))
    return Budget(average, size, min(limits) if limits else None)


def target_bits(config: MixQConfig, costs: UnitCosts) -> Bits:
    """Return the uniform bits nearest to the budget."""
    if isinstance(config.bits, tuple):
        return config.bits
    if config.bits is not None:
        return (round(config.bits), round(config.bits))
    budget = budget_of(config, costs)
    for bits in range(8, 2, -1):
        plan = dict.fromkeys(costs.macs, (bits, bits))
        if costs.bytes(plan) <= (budget.bytes or math.inf) and costs.bops(plan) <= (budget.bops or math.inf):
            return (bits, bits)
    return (2, 2)


def candidate_bits(config: MixQConfig, target: Bits) -> tuple[Bits, ...]:
    """Return the bits that a unit may get."""
    if config.candidate_bits is not None:
        weights = inputs = tuple(sorted(set(config.candidate_bits)))
    else:
        weights, inputs = (tuple(range(max(2, bits - 1), min(8, bits + 2) + 1)) for bits in target)
    if config.tie_bits and target[0] == target[1]:
        return tuple((bits, bits) for bits in weights)
    return tuple((weight, input_) for weight in weights for input_ in inputs)


def measured_bits(config: MixQConfig, target: Bits) -> tuple[Bits, ...]:
    """Return the bits that each unit is measured at: what is chosen apart is measured apart, and adds up."""
    candidates = candidate_bits(config, target)
    if config.tie_bits and target[0] == target[1]:
        return candidates
    apart = [((weight, config.baseline), (config.baseline, input_)) for weight, input_ in candidates]
    return tuple(sorted({bits for pair in apart for bits in pair}))


def _uniform_bops(costs: UnitCosts, weight_bits: float, input_bits: float) -> int:
    """Return the bit operations of uniform bits; between two widths, those in between."""

    def at(bits: tuple[int, int]) -> int:
        return costs.bops(dict.fromkeys(costs.macs, bits))

    low, high = (math.floor(weight_bits), math.floor(input_bits)), (math.ceil(weight_bits), math.ceil(input_bits))
    return math.floor(at(low) + (input_bits - low[1]) * (at(high) - at(low)))


_SETTINGS_OF_SENSITIVITY = {
    "arithmetic", "calibration_samples", "seed", "input_search", "weight_search", "correction", "ridge",
    "compensation", "clip", "balance", "candidate_bits", "tie_bits", "bits", "size_mb", "bops",
}  # fmt: skip
