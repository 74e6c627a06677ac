# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import json

import pytest

from optimum_mixq.config import MixQConfig


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
