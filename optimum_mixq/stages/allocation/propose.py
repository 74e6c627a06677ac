# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The best plans within a configuration's budget, by its own objective and by others."""

from collections.abc import Sequence
from dataclasses import replace

from optimum_mixq.artifacts import BitPlan, LayerRelevance, SensitivityTable, UnitCosts
from optimum_mixq.config import BudgetOptions
from optimum_mixq.stages.allocation.allocate import allocate, combine_scores
from optimum_mixq.stages.allocation.candidates import budget_of, candidate_bits, target_bits


# Exponents of relevance whose best plans are compared with that of `alpha`.
OTHER_ALPHAS = (0.0,)
UNIFORM = "uniform"
WIDTHS_OF_A_SWEEP = (2, 3, 4, 5, 6)


def best_plan(
    relevance: LayerRelevance | None, sensitivity: SensitivityTable, costs: UnitCosts, options: BudgetOptions
) -> BitPlan:
    """Return the plan with the least relevance^alpha x sensitivity within the budget."""
    scores = combine_scores(relevance, sensitivity, candidate_bits(options, costs), options.alpha)
    budget = budget_of(options, costs)
    return allocate(scores, costs, budget, options.overrides, options.exclude, solver=options.solver)


def objectives(options: BudgetOptions) -> dict[str, BudgetOptions]:
    """Return the options with each exponent of relevance that they compare, by the names of the best plans."""
    alphas = (options.alpha, *OTHER_ALPHAS) if options.compare else (options.alpha,)
    return {f"alpha {alpha:g}": replace(options, alpha=alpha) for alpha in dict.fromkeys(alphas)}


def propose_plans(
    relevance: LayerRelevance, sensitivity: SensitivityTable, costs: UnitCosts, options: BudgetOptions
) -> dict[str, BitPlan]:
    """Return the plans that may be the best: of the options' objective, and with `compare` of others too."""
    plans = {
        name: best_plan(relevance, sensitivity, costs, objective) for name, objective in objectives(options).items()
    }
    if not options.compare:
        return plans
    uniform = dict.fromkeys(costs.macs, target_bits(options, costs))
    if not options.overrides and not options.exclude and budget_of(options, costs).allows(costs, uniform):
        plans[UNIFORM] = BitPlan(uniform, {"kind": "uniform", "achieved": costs.achieved(uniform)})
    return plans


def best_plans_of_averages(
    relevance: LayerRelevance | None,
    sensitivity: SensitivityTable,
    costs: UnitCosts,
    options: BudgetOptions,
    average_bits: Sequence[float],
) -> list[BitPlan]:
    """Return the best plan for each average of bits, from the same measurements: the whole frontier."""
    wide = replace(options, candidate_bits=options.candidate_bits or WIDTHS_OF_A_SWEEP)
    return [best_plan(relevance, sensitivity, costs, replace(wide, bits=_whole(bits))) for bits in average_bits]


def _whole(bits: float) -> int | float:
    return int(bits) if float(bits).is_integer() else float(bits)
