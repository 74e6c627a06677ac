# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
from conftest import BUILDERS, make_model, random_pixels

from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import MixQConfig
from optimum_mixq.file_size import saved_bytes
from optimum_mixq.pipeline import quantize_model
from optimum_mixq.stages.costs import measure_costs


@pytest.mark.parametrize("name", sorted(BUILDERS))
@pytest.mark.parametrize("arithmetic", ["column", "folded"])
def test_the_bytes_are_those_of_the_saved_file(name, arithmetic, tmp_path):
    model = make_model(name)
    bits = {unit: (2 + index % 7, 4) for index, unit in enumerate(BitPlan.uniform(model, 4).bits)}
    packed = quantize_model(model, BitPlan(bits), [random_pixels(model)], MixQConfig(arithmetic=arithmetic))
    packed.save_pretrained(tmp_path)
    saved = (tmp_path / "model.safetensors").stat().st_size
    assert saved_bytes(packed) == saved
    told = measure_costs(model, arithmetic).bytes(BitPlan(bits).bits)
    # The header is counted as of 8-bit units: two offsets of each tensor may have a digit more.
    assert saved <= told <= saved + 2 * len(packed.state_dict()) + 8


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_a_float_models_file_is_as_large_as_it_is_said_to_be(name, tmp_path):
    model = make_model(name)
    model.save_pretrained(tmp_path)
    assert saved_bytes(model) == (tmp_path / "model.safetensors").stat().st_size


def test_the_counts_of_a_vit_are_those_of_its_shapes():
    vit = make_model("vit")  # 24 wide, 2 heads, 48 in the MLP, 16 patches and a class token
    costs = measure_costs(vit, "folded")
    assert costs.weights["blocks.0.qkv"] == (24 * 24,) * 3
    assert costs.macs["blocks.0.qkv"] == 17 * 3 * 24 * 24
    assert costs.macs["blocks.1.qk"] == costs.macs["blocks.1.av"] == 17 * 17 * 24
    assert costs.macs["blocks.1.fc2"] == 17 * 24 * 48
    assert costs.fixed_bops == 64 * (16 * 24 * 3 * 16 + 24 * 5)
    assert costs.total_weights == 2 * (4 * 24 * 24 + 2 * 24 * 48)


def test_bit_operations_are_counted_for_the_arithmetic():
    vit = make_model("vit")
    folded, column = (measure_costs(vit, arithmetic) for arithmetic in ("folded", "column"))
    macs = folded.macs["blocks.0.fc1"]
    assert folded.unit_bops("blocks.0.fc1", (3, 5)) == macs * 15
    # A column-scaled layer multiplies activations with an 8-bit operand.
    assert column.unit_bops("blocks.0.fc1", (3, 5)) == macs * 40
    assert column.unit_bops("blocks.0.qk", (3, 5)) == column.macs["blocks.0.qk"] * 25


def test_windows_are_counted():
    swin = make_model("swin")  # 8 x 8 map in 4 windows of 4 x 4, 12 wide
    assert measure_costs(swin, "folded").macs["stages.0.blocks.1.qk"] == 4 * 16 * 16 * 12
