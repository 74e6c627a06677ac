# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The integer program: one binary per unit and bits, solved by PuLP, checked in exact integers."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optimum_mixq.utils.bits import Bits


if TYPE_CHECKING:
    import pulp

# PuLP and its solver are imported where a program is solved: `import optimum_mixq` should not wait for them.

LARGEST_NUMBER_OF_CUTS = 200


@dataclass(frozen=True)
class Limit:
    """sum of cost(unit, bits) <= allowed, in exact integers."""

    name: str
    costs: dict[str, dict[Bits, int]]
    allowed: int

    def spent(self, plan: Mapping[str, Bits]) -> int:
        return sum(self.costs[unit][bits] for unit, bits in plan.items())


def solve(
    options: Mapping[str, Mapping[Bits, float]],
    limits: Sequence[Limit],
    solver: str,
    time_limit: float | None,
) -> tuple[dict[str, Bits], bool, float | None]:
    """Return the plan of least total score, whether that is proven, and a bound where the solver tells one.

    `options` holds {unit: {bits: score}}. Every limit is kept in exact integers.
    """
    import pulp

    problem, chosen, unit_of_score = _build(options, limits)
    for _ in range(LARGEST_NUMBER_OF_CUTS):
        problem.solve(_solver(solver, time_limit))
        if problem.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
            if time_limit is not None and problem.sol_status != pulp.LpSolutionInfeasible:
                raise ValueError(f"Found no plan within {time_limit} seconds: allow more time.")
            raise ValueError(
                "No plan fits all budgets together, though each alone could be kept: allow more of one of them."
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
    options: Mapping[str, Mapping[Bits, float]], limits: Sequence[Limit]
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
    largest = max((value for row in rise.values() for value in row.values()), default=0.0) or 1.0
    unit_of_score = largest / 1e4
    terms = [(variable, rise[unit][bits]) for unit, row in chosen.items() for bits, variable in row.items()]
    problem += pulp.lpSum(value / unit_of_score * variable for variable, value in terms)
    for row in chosen.values():
        problem += pulp.lpSum(row.values()) == 1
    for limit in limits:
        _add_limit(problem, chosen, limit)
    return problem, chosen, unit_of_score


def _add_limit(problem: "pulp.LpProblem", chosen: dict[str, dict[Bits, Any]], limit: Limit) -> None:
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


def _solver(name: str, time_limit: float | None) -> Any:
    import pulp

    if name == "highs":
        from optimum_mixq.stages.allocation.highs import SilentSolver

        # One thread and no gap: the same plan on every run.
        return SilentSolver(msg=False, threads=1, gapRel=0.0, gapAbs=0.0, timeLimit=time_limit)
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
