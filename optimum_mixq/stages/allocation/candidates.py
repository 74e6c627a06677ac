# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What a configuration leaves to choose from: its budget, and the bits that each unit may get."""

import math
from pathlib import Path

from transformers import PreTrainedModel

from optimum_mixq.architectures.describe import describe
from optimum_mixq.artifacts import BitPlan, Bits, UnitCosts, checked_pair
from optimum_mixq.config import MixQConfig
from optimum_mixq.stages.allocation.allocate import Budget, matching_units, require_feasible
from optimum_mixq.stages.allocation.costs import measure_costs


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


def candidate_bits(config: MixQConfig, target: Bits, costs: UnitCosts) -> dict[str, tuple[Bits, ...]]:
    """Return the bits that each unit may get."""
    pairs = _candidate_pairs(config, target)
    # The bits of a matmul are those of its activations: of what differs in the weight's bits alone, one is enough.
    of_input = {bits[1]: bits for bits in sorted(pairs, key=lambda bits: bits[0] == bits[1])}
    for_matmuls = tuple(sorted(of_input.values()))
    return {unit: pairs if weights else for_matmuls for unit, weights in costs.weights.items()}


def measured_bits(config: MixQConfig, target: Bits) -> tuple[Bits, ...]:
    """Return the bits that each unit is measured at: what is chosen apart is measured apart, and adds up."""
    pairs = _candidate_pairs(config, target)
    if config.tie_bits:
        return pairs
    apart = [((weight, config.baseline), (config.baseline, input_)) for weight, input_ in pairs]
    return tuple(sorted({bits for pair in apart for bits in pair}))


def require_plan_exists(config: MixQConfig, costs: UnitCosts) -> None:
    """Raise a ValueError if no plan keeps the budget, or a pattern matches nothing: it shows before measuring."""
    candidates = candidate_bits(config, target_bits(config, costs), costs)
    require_feasible(costs, candidates, budget_of(config, costs), config.overrides, config.exclude)


def read_plan(plan: BitPlan | str | Path, model: PreTrainedModel, config: MixQConfig) -> BitPlan:
    """Return the plan that was given, as itself, as "uniform" or as a file's path, if it keeps the configuration."""
    costs = measure_costs(model, config.arithmetic)
    if plan == "uniform":
        return uniform_plan(config, costs)
    if config.overrides or config.exclude:
        raise ValueError(
            "Expected no overrides and no exclude with a plan that says the bits of every unit, found "
            f"{sorted(config.overrides) + list(config.exclude)}. Change the plan itself, or let one be chosen."
        )
    read = plan if isinstance(plan, BitPlan) else BitPlan.load(plan)
    read.check_fits(describe(model))
    require_within_limits(read.bits, config, costs)
    return read


def uniform_plan(config: MixQConfig, costs: UnitCosts) -> BitPlan:
    """Return the same bits for every unit but those that `overrides` and `exclude` set apart."""
    if config.bits is None or isinstance(config.bits, float):
        raise ValueError(f"Expected whole bits for a uniform plan, found {config.bits!r}.")
    target = target_bits(config, costs)
    candidates = candidate_bits(config, target, costs)
    bits = dict.fromkeys(costs.macs, target)
    for pattern in config.exclude:
        bits |= {unit: max(candidates[unit]) for unit in matching_units(pattern, bits, "exclude")}
    for pattern, wanted in config.overrides.items():
        bits |= {unit: checked_pair(wanted, unit) for unit in matching_units(pattern, bits, "overrides")}
    require_within_limits(bits, config, costs)
    return BitPlan(bits, {"kind": "uniform"})


def require_within_limits(bits: dict[str, Bits], config: MixQConfig, costs: UnitCosts) -> None:
    """Raise a ValueError if a plan that was given takes more than the configuration's `size_mb` or `bops`."""
    megabytes, bops = costs.bytes(bits) / 1e6, costs.bops(bits)
    if config.size_mb is not None and megabytes > config.size_mb:
        raise ValueError(
            f"The plan takes {math.ceil(1e3 * megabytes) / 1e3:.3f} MB, and size_mb allows {config.size_mb:g}. Allow "
            "more, or let the mixed plan choose bits within the budget."
        )
    if config.bops is not None and bops > config.bops:
        raise ValueError(
            f"The plan takes {bops:,} bit operations, and bops allows {config.bops:,}. Allow more, or let the mixed "
            "plan choose bits within the budget."
        )


def _candidate_pairs(config: MixQConfig, target: Bits) -> tuple[Bits, ...]:
    if config.candidate_bits is not None:
        weights = inputs = tuple(sorted(set(config.candidate_bits)))
    else:
        weights, inputs = (tuple(range(max(2, bits - 1), min(8, bits + 2) + 1)) for bits in target)
    if config.tie_bits:
        return tuple((bits, bits) for bits in weights)
    return tuple((weight, input_) for weight in weights for input_ in inputs)


def _uniform_bops(costs: UnitCosts, weight_bits: float, input_bits: float) -> int:
    """Return the bit operations of uniform bits; between two widths, those in between."""

    def at(bits: tuple[int, int]) -> int:
        return costs.bops(dict.fromkeys(costs.macs, bits))

    low, high = (math.floor(weight_bits), math.floor(input_bits)), (math.ceil(weight_bits), math.ceil(input_bits))
    return math.floor(at(low) + (input_bits - low[1]) * (at(high) - at(low)))
