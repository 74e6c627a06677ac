# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import itertools

import numpy as np
import pytest
import torch
from conftest import make_model, random_pixels
from PIL import Image
from transformers import AutoModelForSemanticSegmentation, SegformerImageProcessorPil, pipeline

from optimum_mixq import MixQConfig, MixQQuantizer, MixQTrainingConfig
from optimum_mixq.images.moves import Move
from optimum_mixq.tasks import task_of
from optimum_mixq.tasks.semantic_segmentation import SemanticSegmentation
from optimum_mixq.tasks.single_label import SingleLabel


TASK = SemanticSegmentation()
SMALL = MixQConfig(bits=4, calibration_samples=8, relevance_samples=2, sensitivity_samples=4, candidate_bits=(3, 5))


def numbers(*shape, seed=0):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masks(*shape, classes=4, seed=0):
    drawn = torch.randint(classes + 1, shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(drawn == classes, 255, drawn)


def slow_iou(predicted, expected, classes):
    """The mean over classes, of which one is predicted or there, of intersection over union, pixel by pixel."""
    ratios = []
    for wanted in range(classes):
        both = either = 0
        for found, known in zip(predicted.flatten().tolist(), expected.flatten().tolist(), strict=True):
            if known == 255:
                continue
            both += found == wanted and known == wanted
            either += found == wanted or known == wanted
        if either:
            ratios.append(both / either)
    return sum(ratios) / len(ratios)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_divergence_is_the_mean_over_pixels_of_that_of_one_class(temperature):
    logits, reference = numbers(2, 4, 3, 5), numbers(2, 4, 3, 5, seed=1)
    found = TASK.divergence(logits, reference, temperature)
    for image in range(2):
        total = 0.0
        for row, column in itertools.product(range(3), range(5)):
            pair = [values[image, :, row, column][None] for values in (logits, reference)]
            total += float(SingleLabel().divergence(*pair, temperature))
        assert float(found[image]) == pytest.approx(total / 15)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_mean_of_probes_is_the_curvature_of_the_divergence(temperature):
    logits = numbers(1, 3, 1, 2)
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=6)), dtype=torch.float64).view(64, 3, 1, 2)
    probes = TASK.probe(logits.expand(64, 3, 1, 2), signs, temperature).flatten(1)
    curvature = torch.func.hessian(lambda values: TASK.divergence(values, logits, temperature).sum())(logits)
    torch.testing.assert_close(probes.T @ probes / 64, curvature.reshape(6, 6))


def test_mean_iou_is_that_of_a_slow_count_also_over_batches_and_at_other_sizes():
    logits, labels = numbers(4, 4, 6, 6), masks(4, 6, 6)
    labels[0] = 255  # an image without any class
    expected = slow_iou(logits.argmax(1), labels, 4)
    assert TASK.accuracy(logits, labels) == pytest.approx(expected)
    first, second = TASK.meter(), TASK.meter()
    first.add(logits[:3], labels[:3])
    second.add(logits[3:], labels[3:])
    first.merge(second)
    assert first.value() == pytest.approx(expected)
    larger = masks(4, 12, 12, seed=2)
    resized = torch.nn.functional.interpolate(logits, (12, 12), mode="bilinear", align_corners=False)
    assert TASK.accuracy(logits, larger) == pytest.approx(slow_iou(resized.argmax(1), larger, 4))


def test_a_class_that_is_neither_predicted_nor_there_does_not_count_and_no_class_at_all_has_no_score():
    logits = torch.zeros(1, 3, 2, 2).index_fill(1, torch.tensor([0]), 1.0)
    assert TASK.accuracy(logits, torch.zeros(1, 2, 2, dtype=torch.long)) == 1
    assert TASK.accuracy(logits, torch.full((1, 2, 2), 255)) is None and TASK.meter().value() is None


def test_the_loss_is_that_of_transformers_and_leaves_pixels_without_a_class_out():
    logits, labels = numbers(1, 4, 3, 3), masks(1, 6, 6)
    model = make_model("segmenting_segformer")
    resized = torch.nn.functional.interpolate(logits, (6, 6), mode="bilinear", align_corners=False)
    ignored = model.config.semantic_loss_ignore_index
    expected = torch.nn.CrossEntropyLoss(ignore_index=ignored)(resized, labels)
    assert float(TASK.loss(logits, TASK.targets(labels, 3)).mean()) == pytest.approx(float(expected))
    assert float(TASK.loss(logits, torch.full((1, 6, 6), 255.0))) == 0


def test_what_is_explained_is_the_prediction_at_each_pixel_or_the_label_where_there_is_one():
    logits = numbers(2, 3, 2, 2)
    rows = TASK.explained(logits, None)
    assert rows.sum((1, 2, 3)).tolist() == [1, 1] and torch.equal(rows.argmax(1), logits.argmax(1))
    labels = torch.tensor([[[0, 255], [2, 1]], [[255, 255], [255, 255]]])
    rows = TASK.explained(logits, labels)
    torch.testing.assert_close(rows.sum((1, 2, 3)), torch.ones(2, dtype=torch.float64))
    assert rows[0].nonzero().tolist() == [[0, 0, 0], [1, 1, 1], [2, 1, 0]]
    assert torch.equal(rows[1].argmax(0), logits[1].argmax(0))  # without any class: the prediction


def test_masks_move_with_their_images():
    mask = torch.tensor([[[0, 1], [2, 255]]])
    assert TASK.move_labels(mask, Move(mirrored=True)).tolist() == [[[1, 0], [255, 2]]]
    assert TASK.move_labels(mask, Move(down=1)).tolist() == [[[0, 1], [0, 1]]]


def test_answers_are_shares_of_the_image():
    logits = torch.tensor([[[1.0, 0.0], [1.0, 1.0]], [[0.0, 1.0], [0.0, 0.0]]])
    names = {0: "wall", 1: "door"}
    assert TASK.describe(logits, names) == ["wall 75.0 %", "door 25.0 %"]
    assert TASK.describe_label(torch.tensor([[1, 255], [1, 0]]), names) == "door 66.7 %, wall 33.3 %"
    assert TASK.describe_label(torch.tensor([[255]]), names) == "no class"
    assert TASK.agreement(logits[None], -logits[None]) == 0 and TASK.agreement(logits[None], logits[None]) == 1


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    """Return a quantizer whose packed model is saved with its processor, and the folder."""
    folder = tmp_path_factory.mktemp("segmenter") / "packed"
    processor = SegformerImageProcessorPil(size={"height": 32, "width": 32})
    quantizer = MixQQuantizer.from_pretrained(make_model("segmenting_segformer"), processor)
    quantizer.quantize(SMALL, pictures(12), save_dir=folder)
    return quantizer, folder


def pictures(count, labelled=False):
    """Return pictures of 40 x 36 pixels, alone or with masks of the model's five classes."""
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (36, 40, 3), dtype=np.uint8)) for _ in range(count)]
    if not labelled:
        return images
    return [(image, Image.fromarray(generator.integers(0, 5, (36, 40), dtype=np.uint8))) for image in images]


def test_the_class_of_the_model_tells_the_task(segmenter):
    quantizer, _ = segmenter
    assert type(task_of(quantizer.model)) is SemanticSegmentation
    assert type(task_of(make_model("segformer"))) is SingleLabel
    reloaded = MixQQuantizer.from_pretrained(quantizer.model, task="image-segmentation").model
    assert reloaded is quantizer.model


def test_the_saved_model_loads_to_the_bit_and_runs_in_a_pipeline(segmenter):
    quantizer, folder = segmenter
    loaded = AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
    pixels = random_pixels(loaded, 3).cpu()
    with torch.no_grad():
        assert torch.equal(loaded(pixel_values=pixels).logits, quantizer.quantized(pixel_values=pixels).logits)
    found = pipeline("image-segmentation", model=str(folder))(pictures(1)[0])
    assert found and {part["mask"].size for part in found} == {(40, 36)}
    assert {part["label"] for part in found} <= set(quantizer.model.config.id2label.values())


def test_it_is_evaluated_against_masks_and_reported(segmenter, tmp_path):
    quantizer, _ = segmenter
    scores = quantizer.evaluate(pictures(14, labelled=True)[12:])
    assert 0 < scores["float"].accuracy < 1 and scores["quantized"].kl > 0 and 0 < scores["quantized"].agreement <= 1
    assert scores["quantized"].accuracy_interval is None
    quantizer.report(pictures(14, labelled=True), tmp_path / "report", frontier=0)
    text = (tmp_path / "report" / "report.html").read_text()
    assert "mean IoU" in text and "KL to float per pixel" in text


def test_the_card_names_the_task_and_the_class_that_loads_it(segmenter):
    _, folder = segmenter
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: image-segmentation" in card and "AutoModelForSemanticSegmentation" in card


def test_it_is_trained_on_masks(segmenter):
    quantizer, _ = segmenter
    training = MixQTrainingConfig(epochs=2, batch_size=4, distillation=0.5, learning_rate=1e-2)
    other = MixQQuantizer.from_pretrained(quantizer.model, quantizer.processor)
    other.train(pictures(8, labelled=True), training, SMALL, "uniform", evaluation=pictures(12, labelled=True)[8:])
    assert other.history[1].loss < other.history[0].loss and other.history[0].accuracy is not None


def test_masks_cannot_be_mixed(segmenter):
    quantizer, _ = segmenter
    training = MixQTrainingConfig(epochs=1, batch_size=4, distillation=0.5, mixup=0.2)
    with pytest.raises(ValueError, match="Expected mixup=0 and cutmix=0 for labels of the task 'image-segmentation'"):
        quantizer.train(pictures(8, labelled=True), training, SMALL, "uniform")
