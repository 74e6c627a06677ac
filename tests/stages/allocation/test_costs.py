# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
from conftest import BUILDERS, WINDOWED, make_model, random_pixels
from transformers import SwinConfig, SwinForImageClassification

from optimum_mixq import MixQQuantizer
from optimum_mixq.architectures.measuring import blank_images as blank
from optimum_mixq.artifacts import BitPlan, SensitivityTable
from optimum_mixq.config import MixQConfig
from optimum_mixq.pipeline import quantize_model
from optimum_mixq.stages.allocation import costs as costs_module
from optimum_mixq.stages.allocation.costs import measure_costs
from optimum_mixq.utils.file_size import saved_bytes


COLUMN, FOLDED = (MixQConfig(arithmetic=arithmetic).calibration for arithmetic in ("column", "folded"))


# Skeletons, which bytes are counted from, are compared with packed models in both arithmetics elsewhere.
@pytest.mark.parametrize(
    ("name", "arithmetic"),
    [*((name, "column") for name in sorted(BUILDERS)), *((name, "folded") for name in ("vit", "swin", "segformer"))],
)
def test_the_bytes_are_those_of_the_saved_file(name, arithmetic, tmp_path):
    model = make_model(name)
    bits = {unit: (2 + index % 7, 4) for index, unit in enumerate(BitPlan.uniform(model, 4).bits)}
    config = MixQConfig(arithmetic=arithmetic)
    packed = quantize_model(model, BitPlan(bits), [random_pixels(model)], config)
    packed.save_pretrained(tmp_path)
    saved = (tmp_path / "model.safetensors").stat().st_size
    assert saved_bytes(packed) == saved
    told = measure_costs(model, config.calibration).bytes(BitPlan(bits).bits)
    # The header is counted as of 8-bit units: two offsets of each tensor may have a digit more.
    assert saved <= told <= saved + 2 * len(packed.state_dict()) + 8


def test_the_settings_of_softmax_grids_are_among_the_bytes(vit, tmp_path):
    plan, config = BitPlan.uniform(vit, 4), MixQConfig(softmax="twin-uniform")
    packed = quantize_model(vit, plan, [random_pixels(vit)], config)
    packed.save_pretrained(tmp_path)
    saved, told = (tmp_path / "model.safetensors").stat().st_size, measure_costs(vit, config.calibration)
    assert saved <= told.bytes(plan.bits) <= saved + 2 * len(packed.state_dict()) + 8
    assert measure_costs(vit, COLUMN).bytes(plan.bits) < saved


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_a_float_models_file_is_as_large_as_it_is_said_to_be(name, tmp_path):
    model = make_model(name)
    model.save_pretrained(tmp_path)
    assert saved_bytes(model) == (tmp_path / "model.safetensors").stat().st_size


def test_the_file_keeps_a_budget_of_its_size(tmp_path):
    model = make_model("vit")
    costs = measure_costs(model, COLUMN)
    least, most = (costs.bytes(dict.fromkeys(costs.macs, (bits, bits))) for bits in (3, 5))
    size = (least + most) // 2
    config = MixQConfig(
        bits=None, size_mb=size / 1e6, calibration_samples=4, sensitivity_samples=4, batch_size=4, compare=False
    )
    MixQQuantizer.from_pretrained(model).quantize(config, random_pixels(model, 8), tmp_path / "out")
    saved = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert 0.9 * size < saved <= size


def test_the_counts_of_a_vit_are_those_of_its_shapes():
    vit = make_model("vit")  # 24 wide, 2 heads, 48 in the MLP, 16 patches and a class token
    costs = measure_costs(vit, FOLDED)
    assert costs.weights["blocks.0.qkv"] == (24 * 24,) * 3
    assert costs.macs["blocks.0.qkv"] == 17 * 3 * 24 * 24
    assert costs.macs["blocks.1.qk"] == costs.macs["blocks.1.av"] == 17 * 17 * 24
    assert costs.macs["blocks.1.fc2"] == 17 * 24 * 48
    assert costs.fixed_bops == 64 * (16 * 24 * 3 * 16 + 24 * 5)
    assert costs.total_weights == 3 * (4 * 24 * 24 + 2 * 24 * 48)


def test_bit_operations_are_counted_for_the_arithmetic():
    vit = make_model("vit")
    folded, column = (measure_costs(vit, options) for options in (FOLDED, COLUMN))
    macs = folded.macs["blocks.0.fc1"]
    assert folded.unit_bops("blocks.0.fc1", (3, 5)) == macs * 15
    # A column-scaled layer multiplies activations with an 8-bit operand.
    assert column.unit_bops("blocks.0.fc1", (3, 5)) == macs * 40
    assert column.unit_bops("blocks.0.qk", (3, 5)) == column.macs["blocks.0.qk"] * 25


def test_an_image_that_is_not_square_is_counted_as_it_is():
    swin = SwinForImageClassification(SwinConfig(**WINDOWED | {"image_size": (32, 64)}))
    assert measure_costs(swin, FOLDED).macs["stages.0.blocks.0.qk"] == 128 * 4 * 4 * 8


def test_windows_are_counted():
    costs = measure_costs(make_model("swin"), FOLDED)
    # Maps of 16 x 16, 8 wide, down to 2 x 2, 64 wide, in windows of 2 x 2.
    assert costs.macs["stages.0.blocks.0.qk"] == 64 * 4 * 4 * 8
    assert costs.macs["stages.3.blocks.0.qk"] == 1 * 4 * 4 * 64
    assert costs.macs["stages.2.reduction"] == 2 * 2 * (4 * 32) * (2 * 32)


def test_images_of_another_size_are_counted_as_they_are():
    model = make_model("dinov2")  # 24 wide, patches of 4: 16 and a class token at the configured 16 pixels
    assert measure_costs(model, FOLDED).macs["blocks.0.qk"] == 17 * 17 * 24
    costs = measure_costs(model, FOLDED, image_size=(8, 12))
    assert costs.macs["blocks.0.qk"] == 7 * 7 * 24 and costs.macs["blocks.0.proj"] == 7 * 24 * 24
    with pytest.raises(ValueError, match="Expected images of 16 x 16 pixels, found 8 x 12"):
        measure_costs(make_model("vit"), FOLDED, image_size=(8, 12))


def test_a_quantizer_counts_the_images_that_it_is_given(monkeypatch, tmp_path):
    model, sizes = make_model("dinov2"), []
    monkeypatch.setattr(costs_module, "blank_images", lambda *options: sizes.append(options[2]) or blank(*options))
    pixels = random_pixels(model, 8)[..., :8]  # (16, 8)
    quantizer = MixQQuantizer.from_pretrained(model)
    config = MixQConfig(
        calibration_samples=4, sensitivity_samples=4, relevance_samples=2, compare=False, candidate_bits=(3, 4, 5)
    )
    quantizer.quantize(config, pixels, tmp_path / "out")
    quantizer.quantize(config, pixels, plan="uniform")
    quantizer.allocate(quantizer.relevance, SensitivityTable.load(tmp_path / "out" / "mixq_sensitivity.json"), config)
    quantizer.sweep(quantizer.relevance, quantizer.sensitivity, [4], config)
    quantizer.report(random_pixels(model, 12, seed=5)[..., :8], tmp_path / "report")
    assert len(sizes) == 5 and set(sizes) == {(16, 8)}
