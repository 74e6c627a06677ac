# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
import torch.nn.functional as F
from conftest import BUILDERS, make_model, random_pixels
from transformers import AutoModelForImageClassification

from optimum_mixq.architectures.describe import describe
from optimum_mixq.architectures.replay import captured_inputs
from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import MixQConfig
from optimum_mixq.pipeline import quantize_model
from optimum_mixq.quant.grids import fake_quantize
from optimum_mixq.stages.allocation.costs import measure_costs
from optimum_mixq.stages.calibration.blocks import calibrate
from optimum_mixq.stages.calibration.observers import RowObserver, minmax_grid, minmax_weight_grid
from optimum_mixq.stages.packing import pack
from optimum_mixq.tasks import run_model


@torch.no_grad()
def logits(model, pixels):
    return run_model(model, pixels)


# The ends of most families are alike: in either arithmetic, those that are not.
@pytest.mark.parametrize(
    ("name", "arithmetic"),
    [*((name, "column") for name in sorted(BUILDERS)), *((name, "folded") for name in ("deit_with_teacher", "swin"))],
)
def test_patch_embedding_and_heads_have_the_bits_that_are_asked_for(name, arithmetic):
    model = make_model(name)
    architecture, pixels = describe(model), random_pixels(model, 8)
    config = MixQConfig(arithmetic=arithmetic, stem_and_head_bits=3)
    quantized = calibrate(model, BitPlan.uniform(model, 8), [pixels], config)
    if architecture.stem is not None:
        stem = quantized.get_submodule(architecture.stem)
        assert (stem.weight_bits, stem.input_bits) == (3, 8)
    for name in architecture.heads:
        head = quantized.get_submodule(name)
        assert (head.weight_bits, head.input_bits) == (3, 3)
    assert torch.equal(logits(pack(quantized), pixels), logits(quantized, pixels))


def test_more_bits_of_patch_embedding_and_head_are_closer(vit):
    pixels = random_pixels(vit, 16)
    plan, reference = BitPlan.uniform(vit, 8), logits(vit, pixels)
    errors = []
    for bits in (2, 4, 8):
        quantized = calibrate(vit, plan, [pixels], MixQConfig(stem_and_head_bits=bits))
        errors.append(float((logits(quantized, pixels) - reference).square().mean()))
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("arithmetic", ["column", "folded"])
def test_a_head_leaves_room_for_what_the_calibration_images_did_not_show(arithmetic):
    swin = make_model("swin")
    name = describe(swin).heads[0]
    with captured_inputs(swin, [name]) as captured, torch.no_grad():
        swin(pixel_values=random_pixels(swin, 8))
        swin(pixel_values=random_pixels(swin, 200, seed=3))
    seen, others = captured[name]
    config = MixQConfig(arithmetic=arithmetic)
    plan = BitPlan.uniform(swin, 8)
    grid = calibrate(swin, plan, [random_pixels(swin, 8)], config).get_submodule(name).input_grid
    spanned = minmax_grid(observe(seen), 8)
    room, tight = (int((fake_quantize(others, g) - others).abs().gt(g.scale).sum()) for g in (grid, spanned))
    assert room < 0.5 * tight
    assert grid.scale.median() > 1.1 * spanned.scale.median()


def observe(rows):
    observer = RowObserver("rows")
    observer.observe(rows)
    return observer.result()


def test_the_patch_embeddings_output_is_nearer_than_with_its_weight_rounded_to_nearest(vit):
    stem, pixels = vit.get_submodule(describe(vit).stem), random_pixels(vit, 16)
    quantized = calibrate(vit, BitPlan.uniform(vit, 8), [pixels], MixQConfig(stem_and_head_bits=3))
    found = quantized.get_submodule(describe(vit).stem)
    grid = minmax_weight_grid(stem.weight.detach().flatten(1), 3)
    nearest = fake_quantize(stem.weight.detach().flatten(1), grid).view_as(stem.weight)
    with torch.no_grad():
        wanted = stem(pixels)
        plain = F.conv2d(pixels, nearest, stem.bias, stem.stride)
        assert (found(pixels) - wanted).square().mean() < 0.85 * (plain - wanted).square().mean()


def test_a_model_with_fewer_bits_at_its_ends_is_smaller_and_reloads_to_the_bit(vit, tmp_path):
    pixels, sizes = random_pixels(vit, 8), []
    for ends in (8, 3):
        config = MixQConfig(bits=4, stem_and_head_bits=ends)
        packed = quantize_model(vit, BitPlan.uniform(vit, 4), [pixels], config)
        packed.save_pretrained(tmp_path / str(ends))
        reloaded = AutoModelForImageClassification.from_pretrained(tmp_path / str(ends)).to(vit.device)
        assert torch.equal(logits(reloaded, pixels), logits(packed, pixels))
        sizes.append((tmp_path / str(ends) / "model.safetensors").stat().st_size)
        told = measure_costs(vit, config.calibration).bytes(BitPlan.uniform(vit, 4).bits)
        # The header is counted as of 8-bit units: two offsets of each tensor may have a digit more.
        assert sizes[-1] <= told <= sizes[-1] + 2 * len(packed.state_dict()) + 8
    assert sizes[1] < sizes[0]


@pytest.mark.parametrize("arithmetic, of_head", [("column", 8 * 3), ("folded", 3 * 3)])
def test_bit_operations_count_the_bits_of_patch_embedding_and_head(arithmetic, of_head):
    vit = make_model("vit")
    stem, head = vit.get_submodule(describe(vit).stem), vit.classifier
    options = MixQConfig(arithmetic=arithmetic, stem_and_head_bits=3).calibration
    found = measure_costs(vit, options).fixed_bops
    assert found == 16 * stem.weight.numel() * 3 * 8 + head.weight.numel() * of_head  # 16 patches


@pytest.mark.parametrize("bits", [1, 9, "4", None, True])
def test_other_widths_of_patch_embedding_and_head_are_refused(bits):
    with pytest.raises(ValueError, match=r"Expected stem_and_head_bits .*a width of 2 to 8.* found"):
        MixQConfig(stem_and_head_bits=bits)
