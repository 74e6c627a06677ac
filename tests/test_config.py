# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import json
from dataclasses import FrozenInstanceError, asdict, fields
from typing import get_type_hints

import pytest

from optimum_mixq.config import GROUPS, MixQConfig


def test_a_config_survives_json():
    config = MixQConfig(bits=(3, 8), arithmetic="folded", clip=2.0, plan={"blocks.0.qkv": [3, 8]})
    again = MixQConfig.from_dict(json.loads(config.to_json_string()))
    assert again == config


def test_a_whole_number_of_bits_may_be_written_as_a_fraction():
    assert MixQConfig(bits=4.0) == MixQConfig(bits=4) and isinstance(MixQConfig(bits=4.0).bits, int)


def test_patterns_survive_json():
    config = MixQConfig(overrides={"*.fc2": (4, 8), "*.fc1": 8}, exclude=("blocks.0.*",), candidate_bits=(3, 4))
    assert MixQConfig.from_dict(json.loads(config.to_json_string())) == config


def test_an_unknown_key_raises_and_names_the_near_one():
    with pytest.raises(
        ValueError, match="MixQConfig has no option 'calibration_sample': did you mean 'calibration_sam"
    ):
        MixQConfig.from_dict({"calibration_sample": 3})
    with pytest.raises(ValueError, match="MixQConfig has no option 'xyz': options are alpha, arithmetic"):
        MixQConfig.from_dict({"xyz": 3})


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("bits", 1, "Expected bits to be a width of 2 to 8, or .*, found 1"),
        ("bits", (4, 9), "Expected bits to be a width of 2 to 8"),
        ("bits", (4, 4, 4), "Expected bits to be a width of 2 to 8"),
        ("arithmetic", "fast", "Expected arithmetic to be 'column' or 'folded', found 'fast'"),
        ("calibration_samples", 0, "Expected calibration_samples to be a positive whole number, found 0"),
        ("batch_size", 2.5, "Expected batch_size to be a positive whole number, found 2.5"),
        ("ridge", -1, "Expected ridge to be a positive number, found -1"),
        ("clip", "often", "Expected clip to be a positive number of standard deviations, 'search' or None"),
    ],
)
def test_a_wrong_value_says_what_is_right(option, value, message):
    with pytest.raises(ValueError, match=message):
        MixQConfig(**{option: value})


def test_tied_bits_are_one_number():
    with pytest.raises(ValueError, match=r"Expected one number of bits with tie_bits=True, found \(4, 8\)"):
        MixQConfig(bits=(4, 8), tie_bits=True)
    assert MixQConfig(bits=(4, 4), tie_bits=True).bits == (4, 4)


def test_each_option_belongs_to_one_group():
    of_groups = [option.name for group in GROUPS for option in fields(group)]
    assert sorted(of_groups) == sorted(option.name for option in fields(MixQConfig))


def test_groups_hold_what_the_configuration_says_and_are_frozen():
    config = MixQConfig(bits=3, ridge=2.0, temperature=1.0, score="signed")
    assert config.budget.bits == 3 and config.calibration.ridge == 2.0
    assert config.sensitivity_options.temperature == 1.0 and config.relevance_options.score == "signed"
    with pytest.raises(FrozenInstanceError):
        config.calibration.ridge = 3.0
    assert all(asdict(config.calibration)[name] == getattr(config, name) for name in asdict(config.calibration))


def test_a_wrong_change_shows_where_the_group_is_asked_for():
    config = MixQConfig()
    config.update(ridge=-1.0)
    with pytest.raises(ValueError, match=r"Expected ridge to be a positive number, found -1\.0"):
        _ = config.calibration


@pytest.mark.parametrize("group", GROUPS)
def test_options_without_choices_have_the_same_type_in_both_places(group):
    flat, grouped = get_type_hints(MixQConfig), get_type_hints(group)
    same = {name for name in grouped if grouped[name] is not str}
    assert {name: flat[name] for name in same} == {name: grouped[name] for name in same}
