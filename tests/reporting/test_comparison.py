# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import dataclasses

import pytest

from optimum_mixq.reporting.comparison import Comparison, Contender
from optimum_mixq.stages.evaluation import Evaluation


FLOAT, PACKED = Evaluation(100, 0.93, None, None), Evaluation(100, 0.92, 0.98, 0.0123)


def comparison(*times, **changes):
    contenders = tuple(
        Contender(name, size, time, result)
        for name, size, time, result in zip(("float", "this model"), (8.0, 1.0), times, (FLOAT, PACKED), strict=True)
    )
    return Comparison(contenders, "me/pictures", **{"split": "test", "machine": "a machine", "left_out": 0} | changes)


def test_the_first_contender_is_the_float_model_and_the_last_the_packed_one():
    found = comparison(2.0, 1.0)
    assert (found.float_model.name, found.packed.name) == ("float", "this model")
    assert found.speedup == 2 and found.milliseconds == {"float": 2.0, "this model": 1.0}


def test_what_was_not_timed_has_no_speed():
    found = comparison(None, None)
    assert found.speedup is None and found.milliseconds == {}


def test_times_of_an_earlier_comparison_are_kept_by_one_that_was_not_timed():
    earlier = comparison(2.0, 1.0, machine="that machine")
    later = comparison(None, None).with_times_of(earlier)
    assert later.speedup == 2 and later.machine == "that machine"
    assert comparison(None, None).with_times_of(None) == comparison(None, None)
    timed = comparison(4.0, 1.0)
    assert timed.with_times_of(earlier) is timed


@pytest.mark.parametrize(
    ("left_out", "sentence"),
    [
        (None, "It is not recorded which images served calibration: some of these may have."),
        (0, "None of them served calibration, the choice of bits or training."),
        (12, "12 images that served calibration, the choice of bits or training were left out."),
    ],
)
def test_page_and_card_say_whether_images_served(left_out, sentence):
    assert comparison(2.0, 1.0, left_out=left_out).describe_selection() == sentence


def test_images_are_named_with_their_split():
    assert comparison(2.0, 1.0).describe_images() == "100 images (me/pictures, split test)"
    assert dataclasses.replace(comparison(2.0, 1.0), split=None).describe_images() == "100 images (me/pictures)"
