# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What a configuration leaves to choose from: its budget, and the bits that each unit may get."""

import math
from pathlib import Path

from optimum_mixq.architectures.describe import Architecture
from optimum_mixq.artifacts import BitPlan, UnitCosts
from optimum_mixq.config import BudgetOptions
from optimum_mixq.stages.allocation.allocate import Budget, matching_units, require_feasible
from optimum_mixq.utils.bits import LARGEST_BITS, SMALLEST_BITS, Bits


def budget_of(options: BudgetOptions, costs: UnitCosts) -> Budget:
    """Return the limits that a configuration sets: `bits` stands for average bits and for uniform bit operations."""
    size = None if options.size_mb is None else int(options.size_mb * 1e6)
    limits = [] if options.bops is None else [math.floor(options.bops)]
    average = None
    if options.bits is not None:
        weight_bits, input_bits = options.bits if isinstance(options.bits, tuple) else (options.bits, options.bits)
        average = float(weight_bits)
        limits.append(_uniform_bops(costs, weight_bits, input_bits))
    return Budget(average, size, min(limits) if limits else None)


def target_bits(options: BudgetOptions, costs: UnitCosts) -> Bits:
    """Return the uniform bits nearest to the budget."""
    if isinstance(options.bits, tuple):
        return Bits(*options.bits)
    if options.bits is not None:
        return Bits(round(options.bits), round(options.bits))
    budget = budget_of(options, costs)
    for width in range(LARGEST_BITS, SMALLEST_BITS, -1):
        plan = dict.fromkeys(costs.macs, Bits(width, width))
        if costs.bytes(plan) <= (budget.bytes or math.inf) and costs.bops(plan) <= (budget.bops or math.inf):
            return Bits(width, width)
    return Bits(SMALLEST_BITS, SMALLEST_BITS)


def candidate_bits(options: BudgetOptions, costs: UnitCosts) -> dict[str, tuple[Bits, ...]]:
    """Return the bits that each unit may get."""
    pairs = _candidate_pairs(options, costs)
    # The bits of a matmul are those of its activations: of what differs in the weight's bits alone, one is enough.
    of_input = {bits.activation: bits for bits in sorted(pairs, key=lambda bits: bits.same)}
    for_matmuls = tuple(sorted(of_input.values()))
    return {unit: pairs if weights else for_matmuls for unit, weights in costs.weights.items()}


def measured_bits(options: BudgetOptions, baseline: int, costs: UnitCosts) -> tuple[Bits, ...]:
    """Return the bits that each unit is measured at: what is chosen apart is measured apart, and adds up."""
    pairs = _candidate_pairs(options, costs)
    if options.tie_bits:
        return pairs
    apart = [(Bits(weight, baseline), Bits(baseline, activation)) for weight, activation in pairs]
    return tuple(sorted({bits for pair in apart for bits in pair}))


def require_plan_exists(options: BudgetOptions, costs: UnitCosts) -> None:
    """Raise a ValueError if no plan keeps the budget, or a pattern matches nothing: it shows before measuring."""
    candidates = candidate_bits(options, costs)
    require_feasible(costs, candidates, budget_of(options, costs), options.overrides, options.exclude)


def read_plan(
    plan: BitPlan | str | Path, architecture: Architecture, options: BudgetOptions, costs: UnitCosts
) -> BitPlan:
    """Return the plan that was given, as itself, as "uniform" or as a file's path, if it keeps the options."""
    if plan == "uniform":
        return uniform_plan(options, costs)
    if options.overrides or options.exclude:
        raise ValueError(
            "Expected no overrides and no exclude with a plan that says the bits of every unit, found "
            f"{sorted(options.overrides) + list(options.exclude)}. Change the plan itself, or let one be chosen."
        )
    read = plan if isinstance(plan, BitPlan) else BitPlan.load(plan)
    read.check_fits(architecture)
    require_within_limits(read.bits, options, costs)
    return read


def uniform_plan(options: BudgetOptions, costs: UnitCosts) -> BitPlan:
    """Return the same bits for every unit but those that `overrides` and `exclude` set apart."""
    if options.bits is None or isinstance(options.bits, float):
        raise ValueError(f"Expected whole bits for a uniform plan, found {options.bits!r}.")
    candidates = candidate_bits(options, costs)
    bits = dict.fromkeys(costs.macs, target_bits(options, costs))
    for pattern in options.exclude:
        bits |= {unit: max(candidates[unit]) for unit in matching_units(pattern, bits, "exclude")}
    for pattern, wanted in options.overrides.items():
        bits |= {unit: Bits.of(wanted, unit) for unit in matching_units(pattern, bits, "overrides")}
    require_within_limits(bits, options, costs)
    return BitPlan(bits, {"kind": "uniform"})


def require_within_limits(bits: dict[str, Bits], options: BudgetOptions, costs: UnitCosts) -> None:
    """Raise a ValueError if a plan that was given takes more than the configuration's `size_mb` or `bops`."""
    megabytes, bops = costs.bytes(bits) / 1e6, costs.bops(bits)
    if options.size_mb is not None and megabytes > options.size_mb:
        raise ValueError(
            f"The plan takes {math.ceil(1e3 * megabytes) / 1e3:.3f} MB, and size_mb allows {options.size_mb:g}. Allow "
            "more, or let the mixed plan choose bits within the budget."
        )
    if options.bops is not None and bops > options.bops:
        raise ValueError(
            f"The plan takes {bops:,} bit operations, and bops allows {options.bops:,}. Allow more, or let the mixed "
            "plan choose bits within the budget."
        )


def _candidate_pairs(options: BudgetOptions, costs: UnitCosts) -> tuple[Bits, ...]:
    if options.candidate_bits is not None:
        weights = inputs = tuple(sorted(set(options.candidate_bits)))
    else:
        weights, inputs = map(_widths_around, target_bits(options, costs))
    if options.tie_bits:
        return tuple(Bits(width, width) for width in weights)
    return tuple(Bits(weight, activation) for weight in weights for activation in inputs)


def _widths_around(bits: int) -> tuple[int, ...]:
    return tuple(range(max(SMALLEST_BITS, bits - 1), min(LARGEST_BITS, bits + 2) + 1))


def _uniform_bops(costs: UnitCosts, weight_bits: float, input_bits: float) -> int:
    """Return the bit operations of uniform bits; between two widths, those in between."""
    low = Bits(math.floor(weight_bits), math.floor(input_bits))
    high = Bits(math.ceil(weight_bits), math.ceil(input_bits))
    least, most = (costs.bops(dict.fromkeys(costs.macs, bits)) for bits in (low, high))
    return math.floor(least + (input_bits - low.activation) * (most - least))
