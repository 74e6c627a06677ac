# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optimum_mixq.stages.allocation.settled import choose_nearest, is_settled


def settled_by_the_definition(damages):
    means = {name: statistics.fmean(row) for name, row in damages.items()}
    best = min(means, key=means.get)
    for name, row in damages.items():
        rises = [other - own for other, own in zip(row, damages[best], strict=True)]
        error = statistics.stdev(rises) / math.sqrt(len(rises))
        if name != best and 3 * error - statistics.fmean(rises) > 0.02 * means[best]:
            return False
    return True


@given(st.integers(2, 40), st.integers(1, 4), st.floats(0, 0.5), st.floats(0.01, 1), st.integers(0, 2**20))
def test_it_is_what_standard_errors_of_the_differences_say(images, plans, rise, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    common = torch.rand(images, generator=generator, dtype=torch.float64) + 0.1
    damages = {
        str(plan): common * (1 + plan * rise + spread * torch.rand(images, generator=generator, dtype=torch.float64))
        for plan in range(plans)
    }
    expected = settled_by_the_definition({name: row.tolist() for name, row in damages.items()})
    assert is_settled(damages) == expected


def test_plans_that_differ_alike_on_all_images_are_settled_however_much_images_differ():
    common = torch.tensor([0.001, 1.0, 30.0, 0.2], dtype=torch.float64)
    assert is_settled({"a": common, "b": common + 0.5})
    # The same means, but one image decides.
    assert not is_settled({"a": common, "b": common + torch.tensor([0, 0, 0, 2.0], dtype=torch.float64)})


def test_plans_that_are_as_good_as_one_another_are_settled():
    common = torch.linspace(0.1, 1, 64, dtype=torch.float64)
    flips = 1 + 0.001 * (-1.0) ** torch.arange(64)
    assert is_settled({"a": common, "b": common * flips}) and is_settled({"a": common, "b": common})


@pytest.mark.parametrize("damages", [{"a": torch.ones(1)}, {"a": torch.rand(8)}])
def test_one_plan_is_settled(damages):
    assert is_settled(damages)


@given(st.integers(2, 40), st.integers(1, 4), st.integers(0, 2**20))
def test_the_least_damage_is_chosen_and_what_is_doubted_where_it_is_a_standard_error_ahead(images, plans, seed):
    generator = torch.Generator().manual_seed(seed)
    common = torch.rand(images, generator=generator, dtype=torch.float64)
    damages = {
        str(plan): common + 0.3 * torch.rand(images, generator=generator, dtype=torch.float64) for plan in range(plans)
    }
    ranked = sorted(damages, key=lambda name: statistics.fmean(damages[name].tolist()))
    expected = ranked[0]
    if expected == "0" and plans > 1:
        rises = (damages[ranked[1]] - damages["0"]).tolist()
        if statistics.fmean(rises) <= statistics.stdev(rises) / math.sqrt(images):
            expected = ranked[1]
    assert choose_nearest(damages, "0") == expected
    assert choose_nearest(damages, "none of them") == ranked[0]


def test_a_doubted_plan_that_is_hardly_ahead_gives_way_and_one_that_is_clearly_ahead_does_not():
    common = torch.linspace(0.1, 1, 64, dtype=torch.float64)
    flips = (-1.0) ** torch.arange(64)
    hardly, clearly = common + 0.001 + 0.1 * flips, common + 0.1 + 0.1 * flips
    assert choose_nearest({"mixed": hardly, "uniform": common}, "uniform") == "mixed"
    assert choose_nearest({"mixed": clearly, "uniform": common}, "uniform") == "uniform"
    assert choose_nearest({"mixed": common, "uniform": hardly}, "uniform") == "mixed"
    assert choose_nearest({"uniform": common}, "uniform") == "uniform"


def test_on_one_image_the_least_damage_is_chosen():
    damages = {"mixed": torch.tensor([0.2]), "uniform": torch.tensor([0.1])}
    assert choose_nearest(damages, "uniform") == "uniform"
