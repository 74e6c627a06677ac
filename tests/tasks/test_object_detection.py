# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Detectors go through every stage: what counts are the classes and the boxes of queries that hold an object."""

import itertools
import math

import pytest
import torch
from conftest import make_model, random_pixels
from PIL import Image
from transformers import AutoModelForObjectDetection, YolosImageProcessorPil, pipeline

from optimum_mixq import MixQConfig, MixQQuantizer, MixQTrainingConfig, explain
from optimum_mixq.images.sources import open_images
from optimum_mixq.stages.evaluation import measure_logits
from optimum_mixq.tasks import run_model, task_of
from optimum_mixq.tasks.average_precision import AveragePrecision, overlap
from optimum_mixq.tasks.object_detection import ObjectDetection, detections


QUICK = MixQConfig(calibration_samples=4, sensitivity_samples=4, relevance_samples=4)
NAN = float("nan")


def answers(images=3, queries=2, classes=3, seed=0):
    """Random logits (images, queries, classes + 5) in float64."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, queries, classes + 1, generator=generator, dtype=torch.float64)
    boxes = torch.rand(images, queries, 4, generator=generator, dtype=torch.float64)
    return torch.cat([logits, boxes], -1)


def certain(rows, classes=3):
    """Logits (1, queries, classes + 5) of queries that are sure of (class or None, center, width, height)."""
    found = torch.zeros(1, len(rows), classes + 5)
    for query, (number, *box) in enumerate(rows):
        found[0, query, classes if number is None else number] = 20.0
        found[0, query, -4:] = torch.tensor(box)
    return found


def slow_softmax(values):
    exponentials = [math.exp(value) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def slow_divergence(found, reference, temperature):
    """The divergence of one image: lists of queries."""
    total = 0.0
    for a, b in zip(found, reference, strict=True):
        objects = 1 - slow_softmax(b[:-4])[-1]
        p, q = (slow_softmax([value / temperature for value in row[:-4]]) for row in (b, a))
        classes = temperature**2 * sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
        width, height = (max(0.02, side) for side in b[-2:])
        boxes = sum(
            ((x - y) / (0.1 * side)) ** 2 / 2
            for x, y, side in zip(a[-4:], b[-4:], (width, height, width, height), strict=True)
        )
        total += (objects + 0.1 * (1 - objects)) * classes + objects * boxes
    return total


# What classes and boxes are worth.


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_detections_diverge_by_their_classes_and_boxes_where_the_reference_sees_objects(temperature):
    found, reference = answers(), answers(seed=1)
    expected = [slow_divergence(a, b, temperature) for a, b in zip(found.tolist(), reference.tolist(), strict=True)]
    assert ObjectDetection().divergence(found, reference, temperature).tolist() == pytest.approx(expected)
    assert ObjectDetection().divergence(found, found, temperature).abs().max() == 0


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_mean_of_probes_is_the_curvature_by_finite_differences(temperature):
    center, step = answers(1, 1, 2), 1e-4
    size = center.numel()
    numbers = center.flatten().tolist()

    def distance(*moves):
        moved = list(numbers)
        for place, change in moves:
            moved[place] += change
        return slow_divergence([moved], [numbers], temperature)

    curvature = torch.zeros(size, size, dtype=torch.float64)
    for row, column in itertools.product(range(size), repeat=2):
        corners = {(a, b): distance((row, a * step), (column, b * step)) for a in (1, -1) for b in (1, -1)}
        curvature[row, column] = sum(a * b * value for (a, b), value in corners.items()) / (4 * step**2)
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=size)), dtype=torch.float64).view(-1, 1, size)
    probes = ObjectDetection().probe(center.expand(len(signs), 1, size), signs, temperature).flatten(1)
    torch.testing.assert_close(probes.T @ probes / len(signs), curvature, atol=1e-5, rtol=1e-5)


def test_an_empty_query_may_put_its_box_anywhere():
    reference = certain([(None, 0.5, 0.5, 0.2, 0.2), (1, 0.5, 0.5, 0.2, 0.2)])
    first, second = reference.clone(), reference.clone()
    first[0, 0, -4] += 0.1
    second[0, 1, -4] += 0.1
    assert float(ObjectDetection().divergence(first, reference)) < 1e-6
    # Half a side of the box is five deviations.
    assert float(ObjectDetection().divergence(second, reference)) == pytest.approx(5**2 / 2, rel=1e-5)


def test_relevance_starts_at_the_class_and_the_box_of_queries_with_objects():
    logits = certain([(None, 0.5, 0.5, 0.2, 0.2), (1, 0.5, 0.5, 0.2, 0.2)])
    weights = ObjectDetection().explained(logits, None)
    torch.testing.assert_close(weights[0, 1], torch.tensor([0, 0.5, 0, 0, 0.125, 0.125, 0.125, 0.125]))
    assert float(weights.sum()) == pytest.approx(1) and float(weights[0, 0].sum()) < 1e-6


def test_predictions_agree_where_class_and_place_do():
    task, box = ObjectDetection(), (0.5, 0.5, 0.4, 0.4)
    reference = certain([(0, *box), (1, *box), (2, *box), (None, *box)])
    moved = certain([(0, *box), (2, *box), (2, 0.9, 0.5, 0.4, 0.4), (None, *box)])
    assert task.agreement(reference, reference) == 1
    assert task.agreement(moved, reference) == pytest.approx(1 / 3)
    assert task.agreement(certain([(None, *box)]), certain([(None, *box)])) == 1  # nothing is seen by either


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ((0.5, 0.5, 0.4, 0.4), (0.5, 0.5, 0.4, 0.4), 1.0),
        ((0.5, 0.5, 0.4, 0.4), (0.7, 0.5, 0.4, 0.4), 1 / 3),
        ((0.2, 0.2, 0.1, 0.1), (0.7, 0.7, 0.1, 0.1), 0.0),
        ((0.2, 0.2, 0.0, 0.0), (0.2, 0.2, 0.0, 0.0), 0.0),
    ],
)
def test_boxes_overlap_by_intersection_over_union(left, right, expected):
    assert float(overlap(torch.tensor(left), torch.tensor(right))) == pytest.approx(expected)


def test_what_is_found_is_told_in_words():
    task, names = ObjectDetection(), {0: "cat", 1: "dog"}
    box = (0.5, 0.5, 0.4, 0.4)
    assert task.describe(certain([(None, *box), (1, *box)], 2)[0], names) == ["dog 100.0 %"]
    assert task.describe(certain([(None, *box)], 2)[0], names) == ["no object"]
    rows = torch.tensor([[0, *box, 0], [1, *box, 0], [0, *box, 0], [NAN] * 6])
    assert task.describe_label(rows, names) == "2 cat, 1 dog"
    assert task.describe_label(torch.full((1, 6), NAN), names) == "no object"


def test_there_is_no_loss_for_single_images():
    task = ObjectDetection()
    assert task.targets(torch.zeros(2, 1, 6), 3).shape == (2, 0) and task.unknown_target(torch.zeros(1), 3).shape == (
        0,
    )
    with pytest.raises(
        ValueError, match=r"found object detection\. Models learn from the float model alone\. To learn"
    ):
        task.loss(answers(), torch.empty(3, 0))


# The mean average precision.


def test_all_objects_in_their_places_are_worth_one_and_none_zero():
    pytest.importorskip("pycocotools")
    labels = torch.tensor([[[0, 0.3, 0.3, 0.2, 0.2, 0], [1, 0.7, 0.7, 0.2, 0.2, 0], [NAN] * 6]])
    right = certain([(0, 0.3, 0.3, 0.2, 0.2), (1, 0.7, 0.7, 0.2, 0.2)])
    wrong = certain([(1, 0.3, 0.3, 0.2, 0.2), (0, 0.7, 0.7, 0.2, 0.2)])
    assert ObjectDetection().accuracy(right, labels) == pytest.approx(1)
    assert ObjectDetection().accuracy(wrong, labels) == pytest.approx(0)


def test_a_box_that_is_off_counts_at_the_thresholds_that_it_reaches():
    pytest.importorskip("pycocotools")
    labels = torch.tensor([[[0, 0.5, 0.5, 0.4, 0.4, 0]]])
    shifted = certain([(0, 0.55, 0.5, 0.4, 0.4)])  # an IoU of 7 / 9: six of the ten thresholds
    assert ObjectDetection().accuracy(shifted, labels) == pytest.approx(0.6)


def test_a_meter_adds_up_batches_and_merges_others():
    pytest.importorskip("pycocotools")
    box = (0.5, 0.5, 0.4, 0.4)
    labels = torch.tensor([[[0, *box, 0]], [[0, *box, 0]]])
    logits = torch.cat([certain([(0, *box)]), certain([(1, *box)])])
    whole, first, second = (AveragePrecision(detections) for _ in range(3))
    whole.add(logits, labels)
    first.add(logits[:1], labels[:1])
    second.add(logits[1:], torch.cat([labels[1:], torch.full((1, 2, 6), NAN)], 1))
    first.merge(second)
    assert first.value() == whole.value() == pytest.approx(0.5, abs=0.01)
    nothing = AveragePrecision(detections)
    nothing.add(logits, torch.empty(2, 0, 6))
    assert nothing.value() is None


def test_without_pycocotools_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r'found it missing. Install it with: pip install "optimum-mixq\[detection\]"'
    ):
        ObjectDetection().meter()


# The whole pipeline.


@pytest.fixture
def processor():
    return YolosImageProcessorPil(size={"height": 16, "width": 24})


def picture(seed):
    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(256, (16, 24, 3), generator=generator, dtype=torch.uint8).numpy())


def labelled(count):
    objects = {"bbox": [[2.0, 3.0, 10.0, 8.0]], "category": [1]}
    return [{"image": picture(100 + number), "objects": objects} for number in range(count)]


def test_a_detector_is_known_by_its_class_and_its_logits_are_classes_and_boxes():
    model = make_model("yolos")
    pixels = random_pixels(model, 2)
    with torch.no_grad():
        outputs = model(pixel_values=pixels)
        found = run_model(model, pixels)
    assert isinstance(task_of(model), ObjectDetection) and found.shape == (2, 6, 10)
    assert torch.equal(found[..., :6], outputs.logits) and torch.equal(found[..., 6:], outputs.pred_boxes)


def test_a_detector_is_quantized_evaluated_saved_and_found_by_transformers(processor, tmp_path):
    pytest.importorskip("pycocotools")
    model = make_model("yolos").cpu()
    quantizer = MixQQuantizer.from_pretrained(model, processor)
    packed = quantizer.quantize(QUICK, [picture(number) for number in range(12)], save_dir=tmp_path / "out")
    scores = quantizer.evaluate(labelled(4))
    assert 0 <= scores["quantized"].accuracy <= 1 and scores["quantized"].kl > 0
    quantizer.save_pretrained(tmp_path / "again")
    card = (tmp_path / "again" / "README.md").read_text()
    assert "pipeline_tag: object-detection" in card and "AutoModelForObjectDetection.from_pretrained" in card
    assert "type: mean_average_precision" in card and "name: mAP" in card
    loaded = AutoModelForObjectDetection.from_pretrained(tmp_path / "out").eval()
    pixels = random_pixels(model, 3).cpu()
    with torch.no_grad():
        assert torch.equal(run_model(loaded, pixels), run_model(packed, pixels))
    found = pipeline("object-detection", model=str(tmp_path / "out"), threshold=0.0)(picture(1))
    assert len(found) > 0 and found[0].keys() >= {"score", "label", "box"}


def test_a_detector_is_reported(processor, tmp_path):
    pytest.importorskip("pycocotools")
    quantizer = MixQQuantizer.from_pretrained(make_model("yolos").cpu(), processor)
    quantizer.quantize(QUICK, [picture(number) for number in range(12)], plan="uniform")
    report = quantizer.report(labelled(10), tmp_path / "report", frontier=0)
    assert report.comparison.accuracy_name == "mAP" and (tmp_path / "report" / "report.html").exists()


def test_a_detector_learns_from_the_float_model(processor):
    quantizer = MixQQuantizer.from_pretrained(make_model("yolos").cpu(), processor)
    images = [picture(number) for number in range(12)]
    training = MixQTrainingConfig(epochs=1, batch_size=4, learning_rate=1e-4)
    quantizer.train(images, training, QUICK, plan="uniform")
    assert len(quantizer.history) == 1
    message = (
        r"Expected distillation=1 for the task 'object-detection', found 0\.5: there is no loss against its labels "
        r"here\. Models learn from the float model alone\. To learn from objects, give transformers' Trainer what "
        r"prepare_for_training\(\.\.\.\) returns, which has its own loss \(it needs scipy\)\."
    )
    with pytest.raises(ValueError, match=message):
        quantizer.train(images, MixQTrainingConfig(distillation=0.5, batch_size=4), QUICK, plan="uniform")


def test_pixels_explain_what_was_detected():
    model = make_model("yolos")
    maps = explain(model, random_pixels(model, 2))
    assert maps.shape == (2, 16, 24)
    # The rest reaches the learned tokens.
    assert all(0.2 < float(total) < 1 for total in maps.sum((1, 2)))


def test_images_of_a_detector_are_measured_in_batches_with_labels_of_any_length(processor):
    model = make_model("yolos").cpu()
    images = labelled(3)
    images[1]["objects"] = {"bbox": [], "category": []}
    images[2]["objects"] = {"bbox": [[0, 0, 4, 4], [4, 4, 8, 8]], "category": [0, 4]}
    logits, labels = measure_logits(model, open_images(images, model, processor).batches([0, 1, 2], 2))
    assert logits.shape == (3, 6, 10) and labels.shape == (3, 2, 6)
    assert labels[0, 0].tolist() == pytest.approx([1, 7 / 24, 7 / 16, 10 / 24, 8 / 16, 0])
    assert labels[1].isnan().all() and labels[2, 1, 0] == 4
