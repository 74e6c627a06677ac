# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Gives each unit its bits: the least relevance^alpha x sensitivity within every budget."""

import difflib
import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from optimum_mixq.artifacts import BitPlan, LayerRelevance, SensitivityTable, UnitCosts
from optimum_mixq.stages.allocation.program import Limit, solve
from optimum_mixq.utils.bits import Bits


# Bits as people write them: one number, or (weight bits, activation bits).
Width = int | tuple[int, int]


@dataclass(frozen=True)
class Budget:
    """Limits that a plan keeps, each if it is given."""

    average_bits: float | None = None  # of all weights
    bytes: int | None = None  # of the saved file
    bops: int | None = None  # bit operations per image

    def allows(self, costs: UnitCosts, plan: dict[str, Bits]) -> bool:
        """Return whether a plan keeps every limit."""
        return (
            (self.average_bits is None or costs.average_bits(plan) <= self.average_bits + 1e-9)
            and (self.bytes is None or costs.bytes(plan) <= self.bytes)
            and (self.bops is None or costs.bops(plan) <= self.bops)
        )


def allocate(
    scores: Mapping[str, Mapping[Bits, float]],
    costs: UnitCosts,
    budget: Budget,
    overrides: Mapping[str, Width] | None = None,
    exclude: Sequence[str] = (),
    solver: str = "highs",
    time_limit: float | None = None,
) -> BitPlan:
    """Return the plan of least total score within the budget, proven optimal unless `time_limit` stopped the solver.

    `scores` holds {unit: {(weight bits, activation bits): damage}} (`combine_scores`): its bits are the candidates.
    `overrides` fixes the bits of units that match a pattern, and `exclude` keeps those that match at their most bits.
    The solver's answer is checked against every limit in exact integers.
    """
    import pulp

    options = _restrict(scores, overrides or {}, exclude)
    _require_finite(options)
    limits = _possible_limits(options, costs, budget)
    plan, proven, bound = solve(options, limits, solver, time_limit)
    objective = math.fsum(options[unit][bits] for unit, bits in plan.items())
    provenance = {
        "kind": "allocated",
        "objective": objective,
        "bound": objective if proven else bound,
        "gap": 0.0 if proven else None if bound is None else objective - bound,
        "proven_optimal": proven,
        "solver": f"{solver}, PuLP {pulp.__version__}",
        "budget": {name: value for name, value in asdict(budget).items() if value is not None},
        "achieved": costs.achieved(plan),
    }
    return BitPlan(plan, provenance)


def require_feasible(
    costs: UnitCosts,
    candidates: Mapping[str, Iterable[Bits]],
    budget: Budget,
    overrides: Mapping[str, Width] | None = None,
    exclude: Sequence[str] = (),
) -> None:
    """Raise a ValueError if no plan of these candidates ({unit: bits}) can keep every limit of the budget.

    It needs no scores, so that a typo in a pattern or an impossible budget shows before anything is measured.
    """
    unscored = {unit: dict.fromkeys(row, 0.0) for unit, row in candidates.items()}
    _possible_limits(_restrict(unscored, overrides or {}, exclude), costs, budget)


def matching_units(pattern: str, units: Mapping[str, Any], option: str) -> list[str]:
    """Return the units that match a pattern of `option`; none is an error, which names those that are near."""
    found = fnmatch.filter(units, pattern)
    if not found:
        near = difflib.get_close_matches(pattern, list(units), n=3, cutoff=0.4)
        hint = f"Near: {', '.join(near)}." if near else f"Units look like {next(iter(units))}."
        raise ValueError(f"The pattern '{pattern}' in {option} matches no unit. {hint}")
    return found


def combine_scores(
    relevance: LayerRelevance | None,
    sensitivity: SensitivityTable,
    candidates: Mapping[str, Sequence[Bits]],
    alpha: float = 1.0,
) -> dict[str, dict[Bits, float]]:
    """Return relevance^alpha x sensitivity by unit and candidate; without relevance it is sensitivity alone."""
    scores = {}
    for unit in sensitivity.table:
        weight = 1.0 if relevance is None else relevance.scores[unit] ** alpha
        scores[unit] = {bits: weight * sensitivity.damage(unit, bits) for bits in candidates[unit]}
    return scores


def _restrict(
    scores: Mapping[str, Mapping[Bits, float]], overrides: Mapping[str, Width], exclude: Sequence[str]
) -> dict[str, dict[Bits, float]]:
    """Return the scores of what is left to choose from."""
    options = {unit: dict(row) for unit, row in scores.items()}
    for pattern in exclude:
        for unit in matching_units(pattern, options, "exclude"):
            most = max(options[unit])
            options[unit] = {most: options[unit][most]}
    for pattern, wanted in overrides.items():
        for unit in matching_units(pattern, options, "overrides"):
            bits = Bits.of(wanted, unit)
            # Fixed bits need no score: there is nothing to choose.
            options[unit] = {bits: scores[unit].get(bits, 0.0)}
    return options


def _possible_limits(options: Mapping[str, Mapping[Bits, float]], costs: UnitCosts, budget: Budget) -> list[Limit]:
    """Return the limits; one that even the fewest bits of every unit break raises a ValueError."""
    limits = _limits(options, costs, budget)
    for limit in limits:
        least = sum(min(row.values()) for row in limit.costs.values())
        if least > limit.allowed:
            raise ValueError(
                f"No plan fits: the smallest possible {_describe_least(limit, least, costs, budget)}. Allow more, or "
                "let units have fewer bits (candidate_bits, overrides, exclude)."
            )
    return limits


def _describe_least(limit: Limit, least: int, costs: UnitCosts, budget: Budget) -> str:
    """Return the least that a plan can spend and the budget, in the units that a user states a budget in.

    What is least is rounded up, so that the number that is shown is enough.
    """
    if limit.name == "weight bits":
        average = math.ceil(100 * least / costs.total_weights - 1e-9) / 100
        return f"average is {average:g} bits per weight, and the budget is {budget.average_bits:g}"
    if limit.name == "bytes":
        megabytes = math.ceil((least + costs.fixed_bytes) / 1e3) / 1e3
        return f"size is {megabytes:.3f} MB, and the budget is {(budget.bytes or 0) / 1e6:g} MB"
    return f"number of bit operations is {least + costs.fixed_bops:,}, and the budget is {budget.bops:,}"


def _limits(options: Mapping[str, Mapping[Bits, float]], costs: UnitCosts, budget: Budget) -> list[Limit]:
    def table(cost: Any) -> dict[str, dict[Bits, int]]:
        return {unit: {bits: cost(unit, bits) for bits in row} for unit, row in options.items()}

    limits = []
    if budget.average_bits is not None:
        allowed = math.floor(budget.average_bits * costs.total_weights + 1e-6)
        limits.append(Limit("weight bits", table(costs.weight_bits), allowed))
    if budget.bytes is not None:
        limits.append(Limit("bytes", table(costs.unit_bytes), budget.bytes - costs.fixed_bytes))
    if budget.bops is not None:
        limits.append(Limit("bit operations", table(costs.unit_bops), budget.bops - costs.fixed_bops))
    if not limits:
        raise ValueError("Expected a budget: average bits, bytes or bit operations, found none.")
    return limits


def _require_finite(options: Mapping[str, Mapping[Bits, float]]) -> None:
    for unit, row in options.items():
        for bits, score in row.items():
            if not math.isfinite(score):
                raise ValueError(
                    f"The score of '{unit}' at {Bits(*bits)} bits is {score}: measure relevance and sensitivity "
                    "again, and check the model's logits on these images."
                )
