# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import json

import pytest

from optimum_mixq.architectures import describe
from optimum_mixq.artifacts import BitPlan


def test_a_uniform_plan_gives_every_unit_the_same_bits(model):
    plan = BitPlan.uniform(model, (4, 8))
    assert set(plan.bits) == {unit.name for unit in describe(model).units}
    assert set(plan.bits.values()) == {(4, 8)}


def test_a_plan_survives_its_file(tmp_path, vit):
    plan = BitPlan.uniform(vit, (3, 5))
    plan.save(tmp_path / "plan.json")
    assert BitPlan.load(tmp_path / "plan.json") == plan


def test_a_plan_written_by_hand_is_read(tmp_path):
    (tmp_path / "plan.json").write_text('{"bits": {"blocks.0.qkv": 4, "blocks.0.fc2": [3, 8]}}')
    assert BitPlan.load(tmp_path / "plan.json").bits == {"blocks.0.qkv": (4, 4), "blocks.0.fc2": (3, 8)}


@pytest.mark.parametrize("width", [1, 9, "4", (4,), True, None, 3.5])
def test_a_width_that_is_none_raises_with_the_unit(width):
    with pytest.raises(ValueError, match="Expected 2 to 8 bits for 'blocks.0.qkv'"):
        BitPlan({"blocks.0.qkv": width})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "is no JSON"),
        ("[]", "has no 'bits'"),
        (json.dumps({"format": 2, "bits": {}}), "has plan format 2, this release reads 1"),
    ],
)
def test_a_file_that_is_no_plan_is_said(content, message, tmp_path):
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        BitPlan.load(tmp_path / "plan.json")


def test_a_unit_that_the_model_lacks_is_named_with_near_ones(vit):
    bits = BitPlan.uniform(vit, 4).bits | {"blocks.0.qkw": (4, 4)}
    with pytest.raises(ValueError, match="'blocks.0.qkw', which the model does not have: did you mean blocks.0.qk"):
        BitPlan(bits).check_fits(describe(vit))


def test_units_without_bits_are_named(vit):
    with pytest.raises(ValueError, match=r"says nothing about 17 units of the model \(blocks.0.av, "):
        BitPlan({"blocks.0.qkv": 4}).check_fits(describe(vit))
