# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import itertools
import json
from dataclasses import replace

import pytest

from optimum_mixq import MixQConfig
from optimum_mixq.artifacts import BitPlan, LayerRelevance, SensitivityTable, UnitCosts
from optimum_mixq.stages.allocation import halves
from optimum_mixq.stages.allocation.candidates import candidate_bits
from optimum_mixq.stages.allocation.halves import add_certainty, are_images_enough, compare_halves
from optimum_mixq.stages.allocation.propose import best_plan, objectives, propose_plans


UNITS = ("blocks.0.fc1", "blocks.0.fc2", "blocks.1.fc1")
COSTS = UnitCosts(dict.fromkeys(UNITS, 1000), dict.fromkeys(UNITS, (100,)), 50, 64, "column")
RELEVANCE = LayerRelevance(dict(zip(UNITS, (0.6, 0.3, 0.1), strict=True)), 0.0, 4)
OPTIONS = MixQConfig(bits=4, candidate_bits=(3, 4, 5), tie_bits=True, compare=False).budget


def rows_of(weights):
    return {
        unit: {(bits, bits): weight * 4.0**-bits for bits in (3, 4, 5)}
        for unit, weight in zip(UNITS, weights, strict=True)
    }


def table_of(even, odd, **changes):
    """Return the table of two halves, given the damage of each unit in both."""
    whole = [(one + other) / 2 for one, other in zip(even, odd, strict=True)]
    table = SensitivityTable(rows_of(whole), (8, 8), 0.0, "shift", 64, halves=(rows_of(even), rows_of(odd)))
    return replace(table, **changes)


def best_by_trying(scores):
    """Return the plan of least score of all that keep 4 bits on average."""
    plans = [
        dict(zip(UNITS, bits, strict=True))
        for bits in itertools.product(((3, 3), (4, 4), (5, 5)), repeat=3)
        if sum(width[0] for width in bits) <= 12 and COSTS.bops(dict(zip(UNITS, bits, strict=True))) <= 96064
    ]
    return min(plans, key=lambda plan: sum(scores[unit][bits] for unit, bits in plan.items()))


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_halves_plans_cost_what_they_cost_by_the_whole_table(alpha):
    table, options = table_of((10, 1, 2), (1, 1.5, 4)), replace(OPTIONS, alpha=alpha)

    def scores(rows):
        return {u: {b: RELEVANCE.scores[u] ** alpha * value for b, value in row.items()} for u, row in rows.items()}

    whole = scores(table.table)
    plan = best_plan(RELEVANCE, table, COSTS, options)
    others = [best_by_trying(scores(half)) for half in table.halves]
    assert plan.bits == best_by_trying(whole) and others[0] != others[1]

    def score(bits):
        return sum(whole[unit][width] for unit, width in bits.items())

    found = compare_halves(plan, RELEVANCE, table, COSTS, options)
    assert found.images == 64
    assert found.excess == pytest.approx((score(others[0]) + score(others[1])) / 2 / score(plan.bits) - 1)
    assert found.other_units == tuple(sum(other[unit] != plan.bits[unit] for unit in UNITS) for other in others)
    assert max(found.other_units) > 0 and found.excess > 0


def test_halves_that_agree_cost_nothing():
    table = table_of((10, 1, 1), (20, 2, 2))
    found = compare_halves(best_plan(None, table, COSTS, OPTIONS), None, table, COSTS, OPTIONS)
    assert found.excess == pytest.approx(0, abs=1e-12) and found.other_units == (0, 0)


def test_a_plan_without_damage_has_no_share_of_it():
    table = table_of((-10, -1, -1), (-1, -1, -4))
    assert compare_halves(best_plan(None, table, COSTS, OPTIONS), None, table, COSTS, OPTIONS).excess is None


def test_images_are_enough_where_the_halves_plans_are_nearly_as_good_by_every_objective(monkeypatch):
    options, agreeing = replace(OPTIONS, compare=True), table_of((10, 1, 2), (20, 2, 4))
    differing = table_of((10, 1, 2), (1, 1.5, 4))
    assert are_images_enough(RELEVANCE, agreeing, COSTS, options)
    assert not are_images_enough(RELEVANCE, differing, COSTS, options)
    found = [
        compare_halves(best_plan(RELEVANCE, differing, COSTS, one), RELEVANCE, differing, COSTS, one).excess
        for one in objectives(options).values()
    ]
    monkeypatch.setattr(halves, "LARGEST_EXCESS", max(found))
    assert are_images_enough(RELEVANCE, differing, COSTS, options)
    monkeypatch.setattr(halves, "LARGEST_EXCESS", max(found) * 0.99)
    assert not are_images_enough(RELEVANCE, differing, COSTS, options)
    assert not are_images_enough(RELEVANCE, replace(agreeing, halves=None), COSTS, options)
    assert not are_images_enough(RELEVANCE, table_of((-10, -1, -2), (-10, -1, -2)), COSTS, options)


def test_a_table_without_halves_tells_nothing_of_them():
    table = table_of((10, 1, 2), (1, 1.5, 4), halves=None)
    plan = best_plan(None, table, COSTS, OPTIONS)
    assert compare_halves(plan, None, table, COSTS, OPTIONS) is None
    provenance = add_certainty(plan, RELEVANCE, table, COSTS, OPTIONS).provenance
    assert "halves" not in provenance and provenance["predicted"]["standard_error"] is None


def test_bits_that_an_override_fixes_need_no_damage():
    table, options = table_of((10, 1, 2), (1, 1.5, 4)), replace(OPTIONS, overrides={"*.fc2": 7}, bits=5)
    plan = best_plan(RELEVANCE, table, COSTS, options)
    assert (7, 7) not in candidate_bits(options, COSTS)["blocks.0.fc2"]
    provenance = add_certainty(plan, RELEVANCE, table, COSTS, options).provenance
    assert "predicted" not in provenance and provenance["halves"]["images"] == 64


def test_a_plan_says_what_it_was_sure_of(tmp_path):
    options = replace(OPTIONS, compare=True)
    table = table_of((10, 1, 2), (1, 1.5, 4), errors=rows_of((1, 1, 1)))
    told = {
        name: add_certainty(plan, RELEVANCE, table, COSTS, objectives(options).get(name))
        for name, plan in propose_plans(RELEVANCE, table, COSTS, options).items()
    }
    assert [name for name, plan in told.items() if "halves" in plan.provenance] == ["alpha 1", "alpha 0", "alpha 0.5"]
    plan = told["alpha 0.5"]
    assert plan.provenance["predicted"] == {
        "damage": pytest.approx(sum(table.damage(unit, bits) for unit, bits in plan.bits.items())),
        "standard_error": pytest.approx(sum(4.0 ** -bits[0] for bits in plan.bits.values())),
    }
    plan.save(tmp_path / "plan.json")
    assert BitPlan.load(tmp_path / "plan.json") == plan
    assert json.loads((tmp_path / "plan.json").read_text())["provenance"]["halves"]["images"] == 64
