# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Depth estimators go through every stage: what counts is the error in parts of the depth's own spread."""

import itertools

import pytest
import torch
from conftest import make_model, random_pixels
from PIL import Image
from transformers import AutoModelForDepthEstimation, DPTConfig, DPTForDepthEstimation, DPTImageProcessorPil, pipeline

from optimum_mixq import MixQConfig, MixQQuantizer, MixQTrainingConfig
from optimum_mixq.architectures.describe import describe, require_image_size
from optimum_mixq.images.sources import open_images
from optimum_mixq.tasks import run_model, task_of
from optimum_mixq.tasks.depth_estimation import DepthEstimation


QUICK = MixQConfig(calibration_samples=4, sensitivity_samples=4, relevance_samples=4)
NAMES = ["dpt", "depth_anything"]


def depths(images=3, height=2, width=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 5 + torch.randn(images, height, width, generator=generator, dtype=torch.float64)


def slow_divergence(found, reference):
    """The divergence of one image: lists of numbers."""
    mean = sum(reference) / len(reference)
    spread = sum((value - mean) ** 2 for value in reference)
    return sum((a - b) ** 2 for a, b in zip(found, reference, strict=True)) / (2 * spread)


def test_depths_diverge_by_their_error_in_parts_of_the_spread_in_any_unit():
    found, reference = depths(), depths(seed=1)
    expected = [
        slow_divergence(a, b) for a, b in zip(found.flatten(1).tolist(), reference.flatten(1).tolist(), strict=True)
    ]
    task = DepthEstimation()
    assert task.divergence(found, reference).tolist() == pytest.approx(expected)
    assert task.divergence(1000 * found, 1000 * reference, 4.0).tolist() == pytest.approx(expected)


def test_the_mean_of_probes_is_the_curvature():
    center = depths(1, 2, 2)
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4)), dtype=torch.float64).view(-1, 2, 2)
    probes = DepthEstimation().probe(center.expand(len(signs), 2, 2), signs).flatten(1)
    step = 1e-3
    moved = [slow_divergence([v + step * (i == j) for i, v in enumerate(row)], row)
             for row in center.flatten(1).tolist() for j in range(4)]  # fmt: skip
    curvature = torch.diag(2 * torch.tensor(moved, dtype=torch.float64) / step**2)
    torch.testing.assert_close(probes.T @ probes / len(signs), curvature)


def test_depth_without_spread_has_a_finite_divergence():
    flat = torch.ones(1, 2, 2)
    assert float(DepthEstimation().divergence(flat, flat)) == 0
    assert DepthEstimation().probe(flat, torch.ones_like(flat)).isfinite().all()


def test_there_is_no_loss_against_labels():
    task = DepthEstimation()
    assert task.describe(torch.tensor([[1.0, 2.5]]), {}) == ["depth 1 to 2.5"]
    assert task.targets(torch.zeros(2, 1), 3).shape == (2, 0) and task.unknown_target(torch.zeros(1), 3).shape == (0,)
    with pytest.raises(ValueError, match=r"found depth estimation\. Depth maps are not read, since"):
        task.loss(depths(), torch.empty(3, 0))


@pytest.fixture
def processor():
    return DPTImageProcessorPil(size={"height": 16, "width": 16})


def picture(seed):
    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(256, (16, 16, 3), generator=generator, dtype=torch.uint8).numpy())


@pytest.mark.parametrize("name", NAMES)
def test_a_depth_estimator_is_quantized_evaluated_saved_and_found_by_transformers(name, processor, tmp_path):
    model = make_model(name).cpu()
    quantizer = MixQQuantizer.from_pretrained(model, processor)
    packed = quantizer.quantize(QUICK, [picture(number) for number in range(12)], save_dir=tmp_path / "out")
    scores = quantizer.evaluate([picture(100 + number) for number in range(4)])
    assert scores["quantized"].accuracy is None and scores["quantized"].kl > 0
    quantizer.save_pretrained(tmp_path / "again")
    card = (tmp_path / "again" / "README.md").read_text()
    assert "pipeline_tag: depth-estimation" in card and "AutoModelForDepthEstimation.from_pretrained" in card
    assert "type: relative_squared_error" in card
    loaded = AutoModelForDepthEstimation.from_pretrained(tmp_path / "out").eval()
    pixels = random_pixels(model, 3).cpu()
    with torch.no_grad():
        assert torch.equal(run_model(loaded, pixels), run_model(packed, pixels))
    assert isinstance(task_of(loaded), DepthEstimation)
    found = pipeline("depth-estimation", model=str(tmp_path / "out"))(picture(1))
    assert found["predicted_depth"].shape[-2:] == (16, 16)


def test_a_depth_estimator_is_reported_and_learns_from_the_float_model(processor, tmp_path):
    quantizer = MixQQuantizer.from_pretrained(make_model("dpt").cpu(), processor)
    images = [picture(number) for number in range(12)]
    quantizer.train(images, MixQTrainingConfig(epochs=1, batch_size=4, learning_rate=1e-4), QUICK, plan="uniform")
    report = quantizer.report([picture(100 + number) for number in range(10)], tmp_path / "report", frontier=0)
    assert report.comparison.packed.evaluation.kl > 0
    message = (
        r"Expected distillation=1 for the task 'depth-estimation', found 0\.5: there is no loss against its labels "
        r"here\. Depth maps are not read, since data sets differ in unit, sign and what is missing"
    )
    with pytest.raises(ValueError, match=message):
        quantizer.train(images, MixQTrainingConfig(distillation=0.5, batch_size=4), QUICK, plan="uniform")


def test_depth_maps_of_a_data_set_are_not_read(processor):
    rows = [{"image": picture(0), "depth_map": picture(1)}, {"image": picture(2), "depth_map": picture(3)}]
    batch = next(open_images(rows, make_model("dpt").cpu(), processor).batches([0, 1], 2))
    assert batch.labels is None and batch.pixel_values.shape == (2, 3, 16, 16)


@pytest.mark.parametrize("name", NAMES)
def test_the_neck_and_the_head_stay_float_and_read_several_blocks(name):
    model = make_model(name)
    architecture = describe(model)
    assert architecture.taps == ("blocks.0", "blocks.1") and architecture.heads == ()
    assert all(layer.startswith(("neck.", "head.")) for layer in architecture.left_float)
    assert len(architecture.left_float) > 10


def test_a_dpt_with_another_backbone_is_refused():
    config = make_model("dpt").config
    config.is_hybrid = True
    model = make_model("dpt")
    model.config = config
    with pytest.raises(ValueError, match="Expected a DPT with a plain ViT, found one with convolutions before its"):
        describe(model)
    config = DPTConfig(
        backbone_config={"model_type": "dinov2", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
                         "reshape_hidden_states": False, "out_features": ["stage1", "stage2"]},
        neck_hidden_sizes=[6, 8], reassemble_factors=[2, 1], fusion_hidden_size=8,
    )  # fmt: skip
    with pytest.raises(ValueError, match="found one with another model for its blocks .is_hybrid=False, backbone din"):
        describe(DPTForDepthEstimation(config))


def test_a_depth_anything_on_another_backbone_is_refused():
    model = make_model("depth_anything")
    model.config.backbone_config.model_type = "swin"
    with pytest.raises(ValueError, match="Expected a Depth Anything on a DINOv2, found one on 'swin'"):
        describe(model)


def test_a_dpt_takes_square_images():
    with pytest.raises(ValueError, match="Expected square images, since a DPTForDepthEstimation makes square maps"):
        require_image_size(make_model("dpt"), (16, 24))
