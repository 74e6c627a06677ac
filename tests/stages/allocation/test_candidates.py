# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest

from optimum_mixq import MixQConfig
from optimum_mixq.artifacts import SensitivityTable, UnitCosts
from optimum_mixq.stages.allocation.candidates import budget_of, candidate_bits, measured_bits, target_bits


COSTS = UnitCosts({"b.fc1": 1000, "b.qk": 500}, {"b.fc1": (100,), "b.qk": ()}, 50, 64, "column")


def test_weights_and_activations_are_chosen_apart_around_the_target():
    candidates = candidate_bits(MixQConfig(bits=4).budget, COSTS)
    assert candidates["b.fc1"] == tuple((weight, input_) for weight in (3, 4, 5, 6) for input_ in (3, 4, 5, 6))
    assert candidate_bits(MixQConfig(bits=2).budget, COSTS)["b.fc1"][-1] == (4, 4)
    assert candidate_bits(MixQConfig(candidate_bits=(8, 2)).budget, COSTS)["b.fc1"] == (
        (2, 2), (2, 8), (8, 2), (8, 8),
    )  # fmt: skip


def test_tied_bits_are_the_same_for_weights_and_activations():
    config = MixQConfig(bits=4, tie_bits=True)
    assert candidate_bits(config.budget, COSTS)["b.fc1"] == ((3, 3), (4, 4), (5, 5), (6, 6))
    assert measured_bits(config.budget, 8, COSTS) == ((3, 3), (4, 4), (5, 5), (6, 6))


def test_a_matmul_has_each_width_once():
    assert candidate_bits(MixQConfig(bits=4).budget, COSTS)["b.qk"] == ((3, 3), (4, 4), (5, 5), (6, 6))
    assert candidate_bits(MixQConfig(bits=(8, 4)).budget, COSTS)["b.qk"] == ((8, 3), (8, 4), (8, 5), (8, 6))


@pytest.mark.parametrize(
    ("bits", "tie"),
    [(2, False), (4, False), (7, False), ((8, 4), False), ((3, 8), False), (2, True), (4, True), (7, True)],
)
def test_what_is_measured_tells_the_damage_of_every_candidate(bits, tie):
    config = MixQConfig(bits=bits, tie_bits=tie)
    row = {pair: sum(4.0**-width for width in pair) for pair in measured_bits(config.budget, 8, COSTS)}
    table = SensitivityTable({"b.fc1": row, "b.qk": row}, (8, 8), 0.0, "shift", 1)
    for unit, pairs in candidate_bits(config.budget, COSTS).items():
        assert all((table.damage(unit, pair) > 0) == (pair != (8, 8)) for pair in pairs)


def test_the_budget_of_bits_between_two_widths_lies_between_theirs():
    low, middle, high = (budget_of(MixQConfig(bits=bits).budget, COSTS) for bits in (3, 3.5, 4))
    assert low.average_bits == 3 and middle.average_bits == 3.5
    assert middle.bops == (low.bops + high.bops) // 2
    assert low.bops == 64 + 1000 * 8 * 3 + 500 * 9


def test_a_budget_of_bytes_or_operations_has_a_target_that_keeps_it():
    assert target_bits(MixQConfig(bits=None, size_mb=50e-6 + 51e-6).budget, COSTS) == (4, 4)
    assert target_bits(MixQConfig(bits=None, bops=64 + 1000 * 8 * 5 + 500 * 25).budget, COSTS) == (5, 5)
    assert target_bits(MixQConfig(bits=None, size_mb=1e-6).budget, COSTS) == (2, 2)
