# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The integer program that gives each unit its bits: least relevance^alpha x sensitivity within every budget."""

import difflib
import fnmatch
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optimum_mixq.artifacts import BitPlan, Bits, LayerRelevance, SensitivityTable, UnitCosts, short_bits


if TYPE_CHECKING:
    import pulp

# PuLP and its solver are imported where a program is solved: `import optimum_mixq` should not wait for them.

LARGEST_NUMBER_OF_CUTS = 200

# Two options of two units, (unit, bits, unit, bits), and what having both adds to the damage.
Interactions = Mapping[tuple[str, Bits, str, Bits], float]


@dataclass(frozen=True)
class Budget:
    """Limits that a plan keeps, each if it is given."""

    average_bits: float | None = None  # of all weights
    bytes: int | None = None  # of the saved tensors
    bops: int | None = None  # bit operations per image
    latency: float | None = None  # sum over units of the latency table
    latency_table: Mapping[str, Mapping[Bits, float]] = field(default_factory=dict)

    def allows(self, costs: UnitCosts, plan: dict[str, Bits]) -> bool:
        """Return whether a plan keeps every limit."""
        latency = sum(self.latency_table.get(unit, {}).get(bits, math.inf) for unit, bits in plan.items())
        return (
            (self.average_bits is None or costs.average_bits(plan) <= self.average_bits + 1e-9)
            and (self.bytes is None or costs.bytes(plan) <= self.bytes)
            and (self.bops is None or costs.bops(plan) <= self.bops)
            and (self.latency is None or latency <= self.latency)
        )


@dataclass(frozen=True)
class _Limit:
    """sum of cost(unit, bits) <= allowed, in exact integers."""

    name: str
    costs: dict[str, dict[Bits, int]]
    allowed: int

    def spent(self, plan: Mapping[str, Bits]) -> int:
        return sum(self.costs[unit][bits] for unit, bits in plan.items())


def allocate(
    scores: Mapping[str, Mapping[Bits, float]],
    costs: UnitCosts,
    budget: Budget,
    overrides: Mapping[str, int | Bits] | None = None,
    exclude: Sequence[str] = (),
    tied: Sequence[Sequence[str]] = (),
    interactions: Interactions | None = None,
    solver: str = "highs",
    time_limit: float | None = None,
) -> BitPlan:
    """Return the plan of least total score within the budget, proven optimal unless `time_limit` stopped the solver.

    `scores` holds {unit: {(weight bits, activation bits): damage}} (`combine_scores`): its bits are the candidates.
    `overrides` fixes the bits of units that match a pattern, `exclude` keeps those that match at their most bits, and
    the units of each group in `tied` get the same bits. The solver's answer is checked against every limit in exact
    integers.
    """
    import pulp

    options = _restrict(scores, overrides or {}, exclude)
    _require_finite(options)
    limits = _limits(options, costs, budget)
    for limit in limits:
        _require_possible(limit)
    plan, proven, bound = _solve(options, limits, tied, interactions or {}, solver, time_limit)
    objective = _objective(options, interactions or {}, plan)
    provenance = {
        "kind": "allocated",
        "objective": objective,
        "bound": objective if proven else bound,
        "gap": 0.0 if proven else None if bound is None else objective - bound,
        "proven_optimal": proven,
        "solver": f"{solver}, PuLP {pulp.__version__}",
        "budget": _stated(budget),
        "achieved": costs.achieved(plan),
    }
    return BitPlan(plan, provenance)


def sweep(
    scores: Mapping[str, Mapping[Bits, float]],
    costs: UnitCosts,
    budgets: Iterable[Budget],
    overrides: Mapping[str, int | Bits] | None = None,
    exclude: Sequence[str] = (),
    solver: str = "highs",
) -> list[BitPlan]:
    """Return one plan per budget; nothing is measured again. A wider budget never has more damage."""
    return [allocate(scores, costs, budget, overrides, exclude, solver=solver) for budget in budgets]


def combine_scores(
    relevance: LayerRelevance | None, sensitivity: SensitivityTable, candidates: Sequence[Bits], alpha: float = 1.0
) -> dict[str, dict[Bits, float]]:
    """Return relevance^alpha x sensitivity by unit and candidate; without relevance it is sensitivity alone."""
    scores = {}
    for unit in sensitivity.table:
        weight = 1.0 if relevance is None else relevance.scores[unit] ** alpha
        scores[unit] = {bits: weight * sensitivity.damage(unit, bits) for bits in candidates}
    return scores


def _restrict(
    scores: Mapping[str, Mapping[Bits, float]], overrides: Mapping[str, int | Bits], exclude: Sequence[str]
) -> dict[str, dict[Bits, float]]:
    """Return the scores of what is left to choose from."""
    options = {unit: dict(row) for unit, row in scores.items()}
    for pattern in exclude:
        for unit in _matching(pattern, options, "exclude"):
            most = max(options[unit])
            options[unit] = {most: options[unit][most]}
    for pattern, wanted in overrides.items():
        bits = (wanted, wanted) if isinstance(wanted, int) else (wanted[0], wanted[1])
        for unit in _matching(pattern, options, "overrides"):
            # Fixed bits need no score: there is nothing to choose.
            options[unit] = {bits: scores[unit].get(bits, 0.0)}
    return options


def _matching(pattern: str, units: Mapping[str, Any], option: str) -> list[str]:
    found = fnmatch.filter(units, pattern)
    if not found:
        near = difflib.get_close_matches(pattern, list(units), n=3, cutoff=0.4)
        hint = f"Near: {', '.join(near)}." if near else f"Units look like {next(iter(units))}."
        raise ValueError(f"The pattern '{pattern}' in {option} matches no unit. {hint}")
    return found


def _limits(options: Mapping[str, Mapping[Bits, float]], costs: UnitCosts, budget: Budget) -> list[_Limit]:
    def table(cost: Any) -> dict[str, dict[Bits, int]]:
        return {unit: {bits: cost(unit, bits) for bits in row} for unit, row in options.items()}

    limits = []
    if budget.average_bits is not None:
        allowed = math.floor(budget.average_bits * costs.total_weights + 1e-6)
        limits.append(_Limit("weight bits", table(costs.weight_bits), allowed))
    if budget.bytes is not None:
        limits.append(_Limit("bytes", table(costs.unit_bytes), budget.bytes - costs.fixed_bytes))
    if budget.bops is not None:
        limits.append(_Limit("bit operations", table(costs.unit_bops), budget.bops - costs.fixed_bops))
    if budget.latency is not None:
        nanoseconds = table(lambda unit, bits: round(budget.latency_table[unit][bits] * 1e9))
        limits.append(_Limit("latency in ns", nanoseconds, math.floor(budget.latency * 1e9)))
    if not limits:
        raise ValueError("Expected a budget: average bits, bytes, bit operations or latency, found none.")
    return limits


def _stated(budget: Budget) -> dict[str, float]:
    """Return the limits under the names that `achieved` has."""
    stated = {
        "average_bits": budget.average_bits,
        "bytes": budget.bytes,
        "bops": budget.bops,
        "latency": budget.latency,
    }
    return {name: value for name, value in stated.items() if value is not None}


def _require_finite(options: Mapping[str, Mapping[Bits, float]]) -> None:
    for unit, row in options.items():
        for bits, score in row.items():
            if not math.isfinite(score):
                raise ValueError(
                    f"The score of '{unit}' at {short_bits(bits)} bits is {score}: measure relevance and sensitivity "
                    "again, and check the model's logits on these images."
                )


def _require_possible(limit: _Limit) -> None:
    least = sum(min(row.values()) for row in limit.costs.values())
    if least > limit.allowed:
        raise ValueError(
            f"No plan fits: the units need at least {least:,} {limit.name} at the candidate bits, the budget leaves "
            f"{limit.allowed:,}. Allow more, or add smaller candidates."
        )


def _solve(
    options: Mapping[str, Mapping[Bits, float]],
    limits: Sequence[_Limit],
    tied: Sequence[Sequence[str]],
    interactions: Interactions,
    solver: str,
    time_limit: float | None,
) -> tuple[dict[str, Bits], bool, float | None]:
    """Return the plan, whether it is proven optimal, and a bound on the objective where the solver tells one."""
    import pulp

    problem, chosen, unit_of_score = _build(options, limits, tied, interactions)
    for _ in range(LARGEST_NUMBER_OF_CUTS):
        problem.solve(_solver(solver, time_limit))
        if problem.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
            if time_limit is not None and problem.sol_status != pulp.LpSolutionInfeasible:
                raise ValueError(f"Found no plan within {time_limit} seconds: allow more time, or fewer interactions.")
            raise ValueError(
                "No plan fits all budgets together, though each alone could be kept: allow more of one of them, or "
                "untie units."
            )
        plan = {unit: max(row, key=lambda bits: row[bits].varValue or 0.0) for unit, row in chosen.items()}
        broken = [limit for limit in limits if limit.spent(plan) > limit.allowed]
        if not broken:
            proven = problem.sol_status == pulp.LpSolutionOptimal
            least, rise = math.fsum(min(row.values()) for row in options.values()), _bound(problem)
            return plan, proven, None if rise is None else least + rise * unit_of_score
        for limit in broken:
            # Within the solver's tolerance, but not within the budget: neither is any plan that spends no less on
            # each unit.
            spends_as_much = [
                variable
                for unit, row in chosen.items()
                for bits, variable in row.items()
                if limit.costs[unit][bits] >= limit.costs[unit][plan[unit]]
            ]
            problem += pulp.lpSum(spends_as_much) <= len(plan) - 1
    raise ValueError("The solver does not keep the budget to the last bit: try the other solver.")


def _build(
    options: Mapping[str, Mapping[Bits, float]],
    limits: Sequence[_Limit],
    tied: Sequence[Sequence[str]],
    interactions: Interactions,
) -> tuple["pulp.LpProblem", dict[str, dict[Bits, Any]], float]:
    """Return the program, its variables by unit and bits, and the score that stands for 1 in its objective."""
    import pulp

    problem = pulp.LpProblem("bits", pulp.LpMinimize)
    chosen = {
        unit: {
            bits: problem.add_variable(f"x_{number}_{bits[0]}_{bits[1]}", 0, 1, pulp.LpBinary) for bits in sorted(row)
        }
        for number, (unit, row) in enumerate(options.items())
    }
    # Scores from the unit's least one: a constant less, and numbers of one size for the solver's tolerances.
    rise = {unit: {bits: score - min(row.values()) for bits, score in row.items()} for unit, row in options.items()}
    largest = max((value for row in rise.values() for value in row.values()), default=0.0)
    largest = max([largest, *map(abs, interactions.values())]) or 1.0
    unit_of_score = largest / 1e4
    terms = [(variable, rise[unit][bits]) for unit, row in chosen.items() for bits, variable in row.items()]
    terms += _linearised(problem, chosen, interactions)
    problem += pulp.lpSum(value / unit_of_score * variable for variable, value in terms)
    for row in chosen.values():
        problem += pulp.lpSum(row.values()) == 1
    for limit in limits:
        _add_limit(problem, chosen, limit)
    for group in tied:
        first, *others = [unit for pattern in group for unit in _matching(pattern, options, "tied")]
        for other in others:
            for bits in chosen[first].keys() | chosen[other].keys():
                problem += chosen[first].get(bits, 0) - chosen[other].get(bits, 0) == 0
    return problem, chosen, unit_of_score


def _add_limit(problem: "pulp.LpProblem", chosen: dict[str, dict[Bits, Any]], limit: _Limit) -> None:
    """Limit what is spent above each unit's cheapest option, as a share of what may be spent there.

    The differences are exact integers, so that the solver's tolerances, absolute ones, meet numbers near one.
    """
    import pulp

    cheapest = {unit: min(row.values()) for unit, row in limit.costs.items()}
    free = limit.allowed - sum(cheapest.values())
    terms = []
    for unit, row in chosen.items():
        for bits, variable in row.items():
            more = limit.costs[unit][bits] - cheapest[unit]
            if more > free:
                problem += variable == 0
            elif more:
                terms.append(more / free * variable)
    if terms:
        problem += pulp.lpSum(terms) <= 1


def _linearised(
    problem: "pulp.LpProblem", chosen: dict[str, dict[Bits, Any]], interactions: Interactions
) -> list[tuple[Any, float]]:
    """Return the terms value * z with z = x y exactly: z <= x, z <= y, z >= x + y - 1 (Glover and Woolsey 1974)."""
    terms = []
    for number, ((left, left_bits, right, right_bits), value) in enumerate(interactions.items()):
        pair = chosen[left].get(left_bits), chosen[right].get(right_bits)
        if pair[0] is None or pair[1] is None:
            continue
        both = problem.add_variable(f"z_{number}", 0, 1)
        problem += both <= pair[0]
        problem += both <= pair[1]
        problem += both >= pair[0] + pair[1] - 1
        terms.append((both, value))
    return terms


def _objective(
    options: Mapping[str, Mapping[Bits, float]], interactions: Interactions, plan: Mapping[str, Bits]
) -> float:
    pairs = (
        value
        for (left, left_bits, right, right_bits), value in interactions.items()
        if plan[left] == left_bits and plan[right] == right_bits
    )
    return math.fsum([*(options[unit][bits] for unit, bits in plan.items()), *pairs])


def _solver(name: str, time_limit: float | None) -> Any:
    import pulp

    if name == "highs":
        # One thread and no gap: the same plan on every run.
        return pulp.HiGHS(msg=False, threads=1, gapRel=0.0, gapAbs=0.0, timeLimit=time_limit)
    if name == "cbc":
        # PuLP 4 has no bundled CBC and calls the one that is installed COIN_CMD.
        command = pulp.COIN_CMD(msg=False, threads=1, gapRel=0.0, gapAbs=0.0, timeLimit=time_limit)
        if not command.available() and hasattr(pulp, "PULP_CBC_CMD"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                command = pulp.PULP_CBC_CMD(msg=False, threads=1, gapRel=0.0, gapAbs=0.0, timeLimit=time_limit)
        return command
    raise ValueError(f"Expected the solver to be 'highs' or 'cbc', found {name!r}.")


def _bound(problem: "pulp.LpProblem") -> float | None:
    """Return the solver's bound on the program's objective: HiGHS tells one, CBC does not."""
    information = getattr(getattr(problem, "solverModel", None), "getInfo", None)
    return float(information().mip_dual_bound) if information else None
