# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import itertools
import math
import random
import re
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_mixq.artifacts import LayerRelevance, SensitivityTable, UnitCosts
from optimum_mixq.stages.allocation.allocate import Budget, allocate, combine_scores, require_feasible
from optimum_mixq.utils.bits import Bits


WIDTHS = tuple(Bits(width, width) for width in (2, 3, 4, 6))


def costs_of(weights, macs=None, arithmetic="folded"):
    units = [f"blocks.{index}.fc1" for index in range(len(weights))]
    macs = macs or [10 * weight for weight in weights]
    return UnitCosts(
        dict(zip(units, macs, strict=True)),
        {unit: (weight,) if weight else () for unit, weight in zip(units, weights, strict=True)},
        fixed_bytes=100,
        fixed_bops=1000,
        arithmetic=arithmetic,
    )


def scores_of(costs, rows):
    return {unit: dict(zip(WIDTHS, row, strict=True)) for unit, row in zip(costs.macs, rows, strict=True)}


def brute_force(scores, costs, budget):
    best = math.inf
    for choice in itertools.product(*(row.items() for row in scores.values())):
        plan = {unit: bits for unit, (bits, _) in zip(scores, choice, strict=True)}
        if (
            costs.average_bits(plan) <= budget.average_bits + 1e-9
            and costs.bytes(plan) <= (budget.bytes or math.inf)
            and costs.bops(plan) <= (budget.bops or math.inf)
        ):
            best = min(best, math.fsum(score for _, score in choice))
    return best


numbers = st.floats(-1, 1).map(lambda value: round(value, 4))


@settings(max_examples=25, deadline=None)
@given(
    weights=st.lists(st.integers(1, 10**7), min_size=2, max_size=4),
    rows=st.lists(st.lists(numbers, min_size=4, max_size=4), min_size=4, max_size=4),
    average=st.floats(2, 6),
    share=st.floats(0, 1),
    solver=st.sampled_from(["highs", "cbc"]),
)
def test_the_plan_is_as_good_as_brute_force_finds(weights, rows, average, share, solver):
    costs = costs_of(weights)
    scores = scores_of(costs, rows[: len(weights)])
    least, most = (costs.bops(dict.fromkeys(costs.macs, bits)) for bits in (WIDTHS[0], WIDTHS[-1]))
    budget = Budget(average, bops=int(least + share * (most - least)))
    plan = allocate(scores, costs, budget, solver=solver)
    assert plan.provenance["objective"] == pytest.approx(brute_force(scores, costs, budget), abs=1e-6)
    assert plan.provenance["proven_optimal"]
    assert costs.average_bits(plan.bits) <= average + 1e-9 and costs.bops(plan.bits) <= budget.bops


def crowded(count):
    """Return a program that no solver proves the optimum of in a second or two: every bit gains what it costs."""
    generator = random.Random(0)
    weights = [generator.randint(10**5, 10**6) for _ in range(count)]
    macs = [generator.randint(10**6, 10**7) for _ in range(count)]
    costs = costs_of(weights, macs)
    rows = [
        [-weight * bits[0] / 1e6 - mac * bits[0] ** 2 / 4e7 for bits in WIDTHS]
        for weight, mac in zip(weights, macs, strict=True)
    ]
    uniform = costs.bops(dict.fromkeys(costs.macs, Bits(4, 4)))
    return scores_of(costs, rows), costs, Budget(4.0, bops=93 * uniform // 100)


@pytest.mark.parametrize("solver", ["highs", "cbc"])
def test_a_solve_that_is_out_of_time_reports_its_gap(solver):
    plan = allocate(*crowded(40), time_limit=2.0, solver=solver)
    told = plan.provenance
    assert not told["proven_optimal"] and told["achieved"]["average_bits"] <= 4
    if solver == "highs":
        assert told["gap"] == told["objective"] - told["bound"] > 0
    else:  # CBC tells PuLP no bound
        assert told["gap"] is None is told["bound"]


def test_a_solve_that_finds_nothing_in_time_says_so():
    with pytest.raises(ValueError, match=r"Found no plan within 0\.001 seconds: allow more time\."):
        allocate(*crowded(300), time_limit=0.001)


def simple(count=6):
    costs = costs_of([1000 * (index + 1) for index in range(count)])
    return costs, scores_of(costs, [[8.0 / (index + 1), 2.0, 0.5, 0.1] for index in range(count)])


def test_every_budget_is_kept_in_exact_integers():
    costs, scores = simple()
    uniform = dict.fromkeys(scores, Bits(4, 4))
    budget = Budget(4.0, bytes=costs.bytes(uniform) - 700, bops=costs.bops(uniform) - 1)
    achieved = allocate(scores, costs, budget).provenance["achieved"]
    assert achieved["average_bits"] <= 4 and achieved["bytes"] <= budget.bytes and achieved["bops"] <= budget.bops


def test_units_fixed_by_hand_stay_fixed_and_excluded_ones_keep_the_most_bits():
    costs, scores = simple()
    plan = allocate(scores, costs, Budget(4.5), {"blocks.0.*": 8, "*.1.fc1": (2, 6)}, exclude=["blocks.2.fc1"])
    assert [plan.bits[f"blocks.{index}.fc1"] for index in range(3)] == [(8, 8), (2, 6), (6, 6)]


def test_a_pattern_that_matches_nothing_shows_near_names():
    costs, scores = simple()
    with pytest.raises(ValueError, match=r"'blocks.1.fc9' in overrides matches no unit. Near: blocks.1.fc1"):
        allocate(scores, costs, Budget(4.0), {"blocks.1.fc9": 4})


def test_an_impossible_budget_says_what_is_possible():
    costs, scores = simple()
    with pytest.raises(ValueError, match=r"the smallest possible average is 2 bits per weight, and the budget is 1\."):
        allocate(scores, costs, Budget(1.0))
    with pytest.raises(ValueError, match="Expected a budget: average bits, bytes or bit operations"):
        allocate(scores, costs, Budget())


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(1.999), "smallest possible average is 2 bits per weight, and the budget is 1.999"),
        (Budget(bytes=5349), "smallest possible size is 0.006 MB, and the budget is 0.005349 MB"),
        (Budget(bops=840_999), "smallest possible number of bit operations is 841,000, and the budget is 840,999"),
    ],
)
def test_what_is_impossible_is_known_without_scores(budget, message):
    costs, scores = simple()
    with pytest.raises(ValueError, match=message):
        require_feasible(costs, scores, budget)


@settings(max_examples=30, deadline=None)
@given(weights=st.lists(st.integers(1, 10**5), min_size=1, max_size=3), share=st.floats(0.5, 1.5))
def test_a_budget_is_refused_exactly_where_no_plan_keeps_it(weights, share):
    costs = costs_of(weights)
    scores = scores_of(costs, [[1.0, 0.5, 0.2, 0.1]] * len(weights))
    least = costs.bytes(dict.fromkeys(scores, Bits(2, 2)))
    budget = Budget(average_bits=8.0, bytes=int(least * share))
    if least <= budget.bytes:
        require_feasible(costs, scores, budget)
        allocate(scores, costs, budget)
    else:
        for check in (lambda: require_feasible(costs, scores, budget), lambda: allocate(scores, costs, budget)):
            with pytest.raises(ValueError, match="No plan fits: the smallest possible size is"):
                check()


def test_the_size_that_is_named_as_the_smallest_is_enough():
    costs, scores = simple()
    with pytest.raises(ValueError) as raised:
        require_feasible(costs, scores, Budget(bytes=1))
    smallest = float(re.search(r"size is (\S+) MB", str(raised.value))[1])
    require_feasible(costs, scores, Budget(bytes=round(smallest * 1e6)))


def test_fixed_bits_and_excluded_units_count_in_what_is_possible():
    costs, scores = simple(2)
    require_feasible(costs, scores, Budget(4.0), {"blocks.0.*": 8})
    with pytest.raises(ValueError, match="smallest possible average is 6 bits per weight, and the budget is 4"):
        require_feasible(costs, scores, Budget(4.0), {"blocks.1.*": 8})
    with pytest.raises(ValueError, match="smallest possible average is 6 bits per weight, and the budget is 4"):
        require_feasible(costs, scores, Budget(4.0), exclude=["*"])


def test_typos_in_patterns_and_wrong_widths_are_known_without_scores():
    costs, scores = simple()
    with pytest.raises(ValueError, match="'blocks.1.fc9' in overrides matches no unit"):
        require_feasible(costs, scores, Budget(4.0), {"blocks.1.fc9": 4})
    with pytest.raises(ValueError, match="'block.*' in exclude matches no unit"):
        require_feasible(costs, scores, Budget(4.0), exclude=["block.*"])
    with pytest.raises(ValueError, match="Expected 2 to 8 bits for 'blocks.1.fc1'.*found 9"):
        require_feasible(costs, scores, Budget(4.0), {"blocks.1.*": 9})


def test_the_solver_prints_nothing():
    script = (
        "from optimum_mixq.artifacts import UnitCosts; "
        "from optimum_mixq.stages.allocation.allocate import Budget, allocate; "
        "from optimum_mixq.utils.bits import Bits; "
        "costs = UnitCosts({'a': 10}, {'a': (5,)}, 0, 0, 'column'); "
        "allocate({'a': {Bits(2, 2): 1.0, Bits(3, 3): 0.5}}, costs, Budget(3.0))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_scores_that_are_not_finite_raise_with_the_unit():
    costs, scores = simple()
    scores["blocks.3.fc1"][(4, 4)] = math.nan
    with pytest.raises(ValueError, match="The score of 'blocks.3.fc1' at 4 bits is nan"):
        allocate(scores, costs, Budget(4.0))


def test_both_solvers_and_two_runs_agree():
    costs, scores = simple(12)
    first, again = (allocate(scores, costs, Budget(3.3)) for _ in range(2))
    other = allocate(scores, costs, Budget(3.3), solver="cbc")
    assert first == again
    assert first.provenance["objective"] == pytest.approx(other.provenance["objective"])
    with pytest.raises(ValueError, match="Expected the solver to be 'highs' or 'cbc', found 'gurobi'"):
        allocate(scores, costs, Budget(3.3), solver="gurobi")


def test_a_wider_budget_never_has_more_damage():
    costs, scores = simple()
    plans = [allocate(scores, costs, Budget(average)) for average in (2.0, 2.5, 3.0, 4.0, 5.0, 6.0)]
    objectives = [plan.provenance["objective"] for plan in plans]
    assert objectives == sorted(objectives, reverse=True)


def test_three_hundred_units_and_three_budgets_take_seconds():
    import random

    generator = random.Random(0)
    units = [f"blocks.{index}.fc1" for index in range(300)]
    widths = [Bits(bits, bits) for bits in range(2, 9)]
    costs = UnitCosts(
        {unit: generator.randint(10**6, 10**8) for unit in units},
        {unit: (generator.randint(10**5, 10**6),) for unit in units},
        1000,
        1000,
        "folded",
    )
    scores = {unit: {bits: generator.random() * 4.0 ** -bits[0] for bits in widths} for unit in units}
    uniform = dict.fromkeys(units, Bits(4, 4))
    started = time.perf_counter()
    plan = allocate(scores, costs, Budget(4.0, costs.bytes(uniform), costs.bops(uniform)))
    assert plan.provenance["proven_optimal"]
    # 1.2 s on one quiet core; the bound leaves room for a busy one.
    assert time.perf_counter() - started < 10


def test_scores_are_relevance_to_a_power_times_sensitivity():
    table = SensitivityTable({"a": {3: 0.5, 8: 0.0}, "b": {(3, 8): 0.1, (8, 3): 0.3, 8: 0.0}}, (8, 8), 0.0, "kl", 4)
    relevance = LayerRelevance({"a": 0.25, "b": 0.75}, 0.0, 4)
    scores = combine_scores(relevance, table, {unit: [(3, 3), (8, 8)] for unit in "ab"}, alpha=0.5)
    assert scores["a"] == {(3, 3): pytest.approx(0.25), (8, 8): 0.0}
    # What was measured apart adds up.
    assert scores["b"][(3, 3)] == pytest.approx(0.75**0.5 * 0.4)
    assert combine_scores(None, table, {unit: [(3, 3)] for unit in "ab"})["a"][(3, 3)] == 0.5
