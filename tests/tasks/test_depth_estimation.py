# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Depth estimators go through every stage: what counts is the error in parts of the depth's own spread."""

import itertools

import pytest
import torch
from conftest import make_model, random_pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoModelForDepthEstimation, DPTConfig, DPTForDepthEstimation, DPTImageProcessorPil, pipeline
from transformers.modeling_outputs import DepthEstimatorOutput

from optimum_mixq import MixQConfig, MixQQuantizer, MixQTrainingConfig
from optimum_mixq.architectures.describe import describe, require_image_size
from optimum_mixq.images.moves import Move
from optimum_mixq.tasks import run_model, task_of
from optimum_mixq.tasks.depth_estimation import DepthEstimation, MetricDepthEstimation


TASK, METRIC = DepthEstimation(), MetricDepthEstimation()
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


def labels(images=3, height=2, width=3, seed=7):
    """Return depth maps in which every fourth pixel, and those of half the last image, were not measured."""
    drawn = torch.rand(images, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    drawn = 0.5 + 4 * drawn
    drawn.view(-1)[::4] = 0
    drawn[-1, : height // 2] = 0
    return drawn


def slow_alignment(found, expected):
    """Return numbers s x + t with s and t by least squares, from the normal equations."""
    count, total, squares = len(found), sum(found), sum(x * x for x in found)
    products = sum(x * y for x, y in zip(found, expected, strict=True))
    factor = (count * products - total * sum(expected)) / (count * squares - total * total)
    offset = (sum(expected) - factor * total) / count
    return [factor * x + offset for x in found]


def slow_pairs(found, wanted):
    """Return the numbers of the pixels of one image that were measured, and their labels."""
    pairs = zip(found.flatten().tolist(), wanted.flatten().tolist(), strict=True)
    return zip(*((x, depth) for x, depth in pairs if depth > 0), strict=True)


def slow_delta(found, wanted):
    """The share of one image's measured pixels whose aligned depth is within 1.25 of the label, as MiDaS counts it."""
    values, distances = slow_pairs(found, wanted)
    right = 0
    for inverse, distance in zip(slow_alignment(values, [1 / each for each in distances]), distances, strict=True):
        depth = 1 / max(inverse, 1 / max(distances))
        right += max(depth / distance, distance / depth) < 1.25
    return right / len(distances)


def test_accuracy_is_the_share_of_pixels_within_a_quarter_after_alignment_with_inverse_depth():
    found, wanted = depths(4, 8, 8), labels(4, 8, 8)
    found[0] = 1 / wanted[0].clamp(min=0.1) + 0.1 * found[0]  # an image that is told well
    expected = [slow_delta(a, b) for a, b in zip(found, wanted, strict=True)]
    assert len(set(expected)) > 2 and 0 < min(expected) < max(expected) < 1
    assert TASK.accuracy(found, wanted) == pytest.approx(sum(expected) / 4)
    meter = TASK.meter()
    for part in (slice(0, 3), slice(3, 4)):
        meter.add(found[part].float(), wanted[part].float())
    assert meter.value() == pytest.approx(sum(expected) / 4)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.01, 100), st.floats(-100, 100), st.floats(0.01, 100))
def test_accuracy_and_loss_know_no_unit_and_no_offset(factor, offset, unit):
    found, wanted = depths(2, 4, 4), labels(2, 4, 4)
    assert TASK.accuracy(factor * found + offset, unit * wanted) == pytest.approx(TASK.accuracy(found, wanted))
    moved = TASK.loss(factor * found + offset, unit * wanted).tolist()
    assert moved == pytest.approx(TASK.loss(found, wanted).tolist(), abs=1e-9)


def test_an_inverse_depth_up_to_factor_and_offset_is_right_and_costs_nothing():
    wanted = labels()
    found = torch.where(wanted > 0, 3 / wanted.clamp(min=0.1) + 2, 99.0)
    assert TASK.accuracy(found, wanted) == 1
    assert TASK.loss(found, wanted).tolist() == pytest.approx([0, 0, 0], abs=1e-12)


def test_the_loss_is_the_divergence_of_the_aligned_map_over_measured_pixels():
    found, wanted = depths(), labels()
    expected = []
    for image, depth in zip(found, wanted, strict=True):
        values, distances = slow_pairs(image, depth)
        inverse = [1 / each for each in distances]
        expected.append(slow_divergence(slow_alignment(values, inverse), inverse))
    assert TASK.loss(found, TASK.targets(wanted, 3).double()).tolist() == pytest.approx(expected, rel=1e-5)


def test_a_flat_map_and_a_map_without_labels_have_finite_losses_and_gradients():
    for task in (TASK, METRIC):
        flat = torch.ones(1, 2, 3, requires_grad=True)
        loss = task.loss(flat, labels(1).float()) + task.loss(flat, torch.zeros(1, 2, 3))
        (gradient,) = torch.autograd.grad(loss.sum(), flat)
        assert task.loss(flat, torch.zeros(1, 2, 3)).tolist() == [0] and gradient.isfinite().all()
    assert 0 < TASK.accuracy(torch.zeros(1, 8, 8), labels(1, 8, 8)) < 1


def test_metres_are_compared_as_they_are():
    found, wanted = depths() / 2, labels()
    found[0, 0, 1] = -1
    shares, losses = [], []
    for image, depth in zip(found, wanted, strict=True):
        values, distances = slow_pairs(image, depth)
        ratios = [max(x / y, y / x) if x > 0 else 1e9 for x, y in zip(values, distances, strict=True)]
        shares.append(sum(ratio < 1.25 for ratio in ratios) / len(ratios))
        losses.append(sum((x / y - 1) ** 2 / 2 for x, y in zip(values, distances, strict=True)) / len(values))
    assert 0 < METRIC.accuracy(found, wanted) == pytest.approx(sum(shares) / 3)
    assert METRIC.loss(found, wanted).tolist() == pytest.approx(losses)


def test_maps_are_resized_to_their_labels_as_transformers_does_it(processor):
    found, wanted = depths(2, 4, 4), labels(2, 16, 16)
    outputs = DepthEstimatorOutput(predicted_depth=found)
    resized = processor.post_process_depth_estimation(outputs, [(16, 16), (16, 16)])
    resized = torch.stack([each["predicted_depth"] for each in resized])
    assert TASK.accuracy(found, wanted) == TASK.accuracy(resized, wanted)
    assert torch.equal(METRIC.loss(found, wanted), METRIC.loss(resized, wanted))


def test_depth_maps_move_with_their_images_and_are_told_by_their_ends():
    wanted = torch.tensor([[[0.0, 1.0], [2.5, 4.0]]])
    assert TASK.move_labels(wanted, Move(mirrored=True)).tolist() == [[[1.0, 0.0], [4.0, 2.5]]]
    assert TASK.unknown_target(torch.zeros(3, 4, 5), 0).shape == (4, 5)
    assert TASK.describe(torch.tensor([[1.0, 2.5]]), {}) == ["depth 1 to 2.5"]
    assert TASK.describe_label(wanted[0], {}) == "depth 1 to 4"
    assert TASK.describe_label(torch.zeros(2, 2), {}) == "no depth"


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


def labelled(seeds):
    """Return pictures with depth maps of 16 bits, a part of which was not measured."""
    maps = (1000 * labels(1, 16, 16, seed)[0] for seed in seeds)
    return [(picture(seed), depth.numpy().astype("uint16")) for seed, depth in zip(seeds, maps, strict=True)]


def test_a_depth_estimator_is_evaluated_trained_and_reported_on_depth_maps(processor, tmp_path):
    quantizer = MixQQuantizer.from_pretrained(make_model("dpt").cpu(), processor)
    training = MixQTrainingConfig(epochs=2, batch_size=4, distillation=0.5, learning_rate=1e-2)
    quantizer.train(labelled(range(8)), training, QUICK, "uniform", evaluation=labelled(range(100, 104)))
    assert quantizer.history[1].loss < quantizer.history[0].loss and quantizer.history[0].accuracy is not None
    report = quantizer.report(labelled(range(110, 120)), tmp_path / "report", frontier=0)
    found = report.comparison.packed.evaluation
    assert 0 < found.accuracy < 1 and found.accuracy_interval is None and found.kl > 0
    assert "delta_1" in (tmp_path / "report" / "report.html").read_text()
    quantizer.save_pretrained(tmp_path / "out")
    assert "type: delta_1" in (tmp_path / "out" / "README.md").read_text()


def test_depth_maps_cannot_be_mixed_and_images_without_them_teach_nothing(processor):
    quantizer = MixQQuantizer.from_pretrained(make_model("dpt").cpu(), processor)
    training = MixQTrainingConfig(epochs=1, batch_size=4, distillation=0.5, mixup=0.2)
    with pytest.raises(ValueError, match="Expected mixup=0 and cutmix=0 for labels of the task 'depth-estimation'"):
        quantizer.train(labelled(range(4)), training, QUICK, "uniform")
    training = MixQTrainingConfig(epochs=1, batch_size=4, distillation=0.5)
    with pytest.raises(ValueError, match="Expected labelled images to train on with distillation below 1"):
        quantizer.train([picture(number) for number in range(4)], training, QUICK, "uniform")


def test_the_configuration_tells_whether_depths_are_metres():
    model = make_model("depth_anything")
    assert type(task_of(model)) is DepthEstimation and type(task_of(make_model("dpt"))) is DepthEstimation
    model.config.depth_estimation_type = "metric"
    assert type(task_of(model)) is MetricDepthEstimation


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
