# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest

from optimum_mixq import MixQConfig
from optimum_mixq.artifacts import LayerRelevance, SensitivityTable, UnitCosts
from optimum_mixq.stages.allocation.propose import best_plan, best_plans_of_averages, propose_plans


UNITS = [f"blocks.{index}.fc1" for index in range(4)]
COSTS = UnitCosts(dict.fromkeys(UNITS, 1000), dict.fromkeys(UNITS, (100,)), 50, 64, "column")
WIDTHS = (3, 4, 5, 6)
RELEVANCE = LayerRelevance(dict(zip(UNITS, (0.4, 0.3, 0.2, 0.1), strict=True)), 0.0, 4)


def table():
    rows = {
        unit: {
            pair: (number + 1) * 4.0**-width
            for width in range(2, 8)
            for pair in ((width, 8), (8, width))
        }
        for number, unit in enumerate(UNITS)
    }  # fmt: skip
    return SensitivityTable(rows, (8, 8), 0.0, "shift", 4)


def test_the_proposed_plans_are_those_of_each_objective_and_uniform_bits():
    plans = propose_plans(RELEVANCE, table(), COSTS, MixQConfig(bits=4).budget)
    assert list(plans) == ["alpha 0.5", "alpha 0", "uniform"]
    assert set(plans["uniform"].bits.values()) == {(4, 4)} and "achieved" in plans["uniform"].provenance
    assert all(COSTS.average_bits(plan.bits) <= 4 for plan in plans.values())
    for alpha in (0.5, 0.0):
        alone = best_plan(RELEVANCE, table(), COSTS, MixQConfig(bits=4, alpha=alpha).budget)
        assert plans[f"alpha {alpha:g}"] == alone


def test_an_objective_among_the_others_is_solved_once():
    plans = propose_plans(RELEVANCE, table(), COSTS, MixQConfig(bits=4, alpha=0).budget)
    assert list(plans) == ["alpha 0", "uniform"]


def test_without_comparison_the_options_objective_alone_is_proposed():
    plans = propose_plans(RELEVANCE, table(), COSTS, MixQConfig(bits=4, compare=False, alpha=0.5).budget)
    assert list(plans) == ["alpha 0.5"]
    assert plans["alpha 0.5"] == best_plan(RELEVANCE, table(), COSTS, MixQConfig(bits=4, alpha=0.5).budget)


@pytest.mark.parametrize("options", [{"overrides": {"*.fc1": 8}}, {"exclude": ("*.0.fc1",)}])
def test_uniform_bits_are_no_rival_where_some_units_are_set_apart(options):
    assert "uniform" not in propose_plans(RELEVANCE, table(), COSTS, MixQConfig(bits=None, bops=1e9, **options).budget)


def test_a_sweep_keeps_each_average():
    plans = best_plans_of_averages(None, table(), COSTS, MixQConfig(candidate_bits=(2, 3, 4)).budget, [2, 2.5, 3.75])
    found = [COSTS.average_bits(plan.bits) for plan in plans]
    assert all(have <= wanted for have, wanted in zip(found, [2, 2.5, 3.75], strict=True)) and found == sorted(found)
