# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import itertools
import math

import pytest
import torch
from conftest import make_model, random_pixels
from torch import nn

from optimum_mixq import MixQConfig, MixQQuantizer
from optimum_mixq.tasks import Task, register_task, task_of
from optimum_mixq.tasks.base import _tasks
from optimum_mixq.tasks.multi_label import MultiLabel
from optimum_mixq.tasks.regression import Regression
from optimum_mixq.tasks.single_label import SingleLabel


def numbers(*shape, seed=0):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_kl(found, expected):
    """KL of two distributions, given as lists of probabilities."""
    return sum(p * math.log(p / q) for p, q in zip(expected, found, strict=True))


def slow_softmax(row):
    exponentials = [math.exp(value) for value in row]
    return [value / sum(exponentials) for value in exponentials]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_one_class_per_image_diverges_by_kl_of_the_softmaxes(temperature):
    logits, reference = numbers(5, 4), numbers(5, 4, seed=1)
    found = SingleLabel().divergence(logits, reference, temperature)
    for row in range(5):
        pair = [slow_softmax((values[row] / temperature).tolist()) for values in (logits, reference)]
        assert float(found[row]) == pytest.approx(temperature**2 * slow_kl(*pair))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_several_labels_diverge_by_kl_of_each_labels_two_outcomes(temperature):
    logits, reference = numbers(5, 3), numbers(5, 3, seed=1)
    found = MultiLabel().divergence(logits, reference, temperature)
    for row in range(5):
        total = 0.0
        for label in range(3):
            p, q = (1 / (1 + math.exp(-float(z[row, label]) / temperature)) for z in (reference, logits))
            total += slow_kl([q, 1 - q], [p, 1 - p])
        assert float(found[row]) == pytest.approx(temperature**2 * total)


def test_numbers_diverge_by_half_their_squared_difference_at_any_temperature():
    logits, reference = numbers(5, 2), numbers(5, 2, seed=1)
    for temperature in (1.0, 4.0):
        found = Regression().divergence(logits, reference, temperature)
        for row in range(5):
            assert float(found[row]) == pytest.approx(
                sum((float(logits[row, i]) - float(reference[row, i])) ** 2 for i in range(2)) / 2
            )


@pytest.mark.parametrize("task", [SingleLabel(), MultiLabel(), Regression()])
def test_a_divergence_is_zero_for_the_same_outputs_and_positive_for_others(task):
    logits, reference = numbers(6, 4), numbers(6, 4, seed=1)
    torch.testing.assert_close(
        task.divergence(logits, logits), torch.zeros(6, dtype=torch.float64), atol=1e-12, rtol=0
    )
    assert (task.divergence(logits, reference) > 0).all()
    assert torch.isfinite(task.divergence(1e4 * logits, 1e4 * reference)).all()


@pytest.mark.parametrize("task", [SingleLabel(), MultiLabel(), Regression()])
def test_what_is_explained_sums_to_one_for_each_image(task):
    rows = task.explained(numbers(6, 4) - 4, None)  # few positive logits: of some images none
    torch.testing.assert_close(rows.sum(-1), torch.ones(6, dtype=torch.float64))


def test_labels_that_are_present_are_explained_equally():
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    rows = MultiLabel().explained(torch.tensor([[-1.0, 5.0, 1.0], [0.1, 0.3, 0.2]]), labels)
    assert rows.tolist() == [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]


def test_losses_are_those_of_transformers():
    logits, targets = numbers(6, 4), torch.tensor([[1.0, 0.0, 1.0, 0.0]] * 6, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    single = SingleLabel()
    assert float(single.loss(logits, single.targets(labels, 4)).mean()) == pytest.approx(
        float(nn.CrossEntropyLoss()(logits, labels))
    )
    assert float(MultiLabel().loss(logits, targets).mean()) == pytest.approx(
        float(nn.BCEWithLogitsLoss()(logits, targets))
    )
    assert float(Regression().loss(logits, targets).mean()) == pytest.approx(float(nn.MSELoss()(logits, targets)))


def test_what_is_predicted_is_wholly_right_and_numbers_have_no_labels():
    logits = torch.tensor([[2.0, -1.0], [0.25, 0.5]])
    assert SingleLabel().predicted(logits).tolist() == [0, 1]
    assert MultiLabel().predicted(logits).tolist() == [[1.0, 0.0], [1.0, 1.0]]
    assert all(task.accuracy(logits, task.predicted(logits)) == 1 for task in (SingleLabel(), MultiLabel()))
    assert Regression().predicted(logits) is None


def test_accuracy_counts_labels_and_numbers_have_none():
    logits = torch.tensor([[2.0, -1.0], [0.5, 0.25]])
    assert SingleLabel().accuracy(logits, torch.tensor([0, 1])) == 0.5
    assert MultiLabel().accuracy(logits, torch.tensor([[1.0, 0.0], [1.0, 0.0]])) == 0.75
    assert MultiLabel().agreement(logits, -logits) == 0.0
    assert Regression().accuracy(logits, logits) is None and Regression().agreement(logits, logits) is None


@pytest.mark.parametrize(
    ("problem_type", "labels", "expected"),
    [
        (None, 5, SingleLabel),
        ("single_label_classification", 5, SingleLabel),
        ("multi_label_classification", 5, MultiLabel),
        ("multi_label_classification", 1, MultiLabel),
        ("regression", 5, Regression),
        (None, 1, Regression),
    ],
)
def test_the_configuration_tells_the_task(vit, problem_type, labels, expected):
    vit.config.num_labels = labels
    vit.config.problem_type = problem_type
    assert type(task_of(vit)) is expected


def test_features_without_a_head_are_numbers(vit):
    vit.classifier = nn.Identity()
    assert type(task_of(vit)) is Regression


def test_a_packed_model_has_the_task_of_the_float_one(vit):
    config = MixQConfig(calibration_samples=4)
    packed = MixQQuantizer.from_pretrained(vit).quantize(config, random_pixels(vit), plan="uniform")
    assert type(task_of(packed)) is SingleLabel
    vit.config.problem_type = "multi_label_classification"
    assert type(task_of(vit)) is MultiLabel


@pytest.mark.parametrize("sensitivity", ["measured", "gradient"])
def test_a_task_registered_from_outside_goes_through_every_stage(vit, sensitivity):
    asked = []

    @register_task
    class Mine(SingleLabel):
        def handles(self, model):
            return model.config.model_type == "vit"

        def divergence(self, logits, reference, temperature=1.0):
            asked.append("divergence")
            return 2 * super().divergence(logits, reference, temperature)

        def explained(self, logits, labels):
            asked.append("explained")
            return super().explained(logits, labels)

        def probe(self, logits, signs, temperature):
            asked.append("probe")
            return super().probe(logits, signs, temperature)

        def accuracy(self, logits, labels):
            return 0.25

    pixels = random_pixels(vit, 12)
    config = MixQConfig(
        calibration_samples=4, sensitivity_samples=4, candidate_bits=(3, 4, 5), sensitivity=sensitivity
    )
    try:
        quantizer = MixQQuantizer.from_pretrained(vit)
        quantizer.quantize(config, pixels)
        wanted = {"divergence", "explained"} | ({"probe"} if sensitivity == "gradient" else set())
        assert set(asked) == wanted and len(set(quantizer.plan.bits.values())) > 1
        labelled = [(image, 0) for image in random_pixels(vit, 6, seed=3)]
        assert quantizer.evaluate(labelled)["quantized"].accuracy == 0.25
        assert type(task_of(make_model("deit"))) is SingleLabel
    finally:
        del _tasks[0]


def test_an_unknown_problem_type_names_those_that_are_known(vit):
    vit.config.__dict__["problem_type"] = "ranking"
    with pytest.raises(ValueError, match="or 'regression', found 'ranking'. Set model.config.problem_type"):
        task_of(vit)


@pytest.mark.parametrize("task", [SingleLabel(), MultiLabel(), Regression()])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_mean_of_probes_is_the_curvature_of_the_divergence(task, temperature):
    logits = numbers(1, 4)
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4)), dtype=torch.float64)  # all that there are
    probes = task.probe(logits.expand(16, 4), signs, temperature)
    found = probes.T @ probes / 16
    curvature = torch.func.hessian(lambda values: task.divergence(values, logits, temperature).sum())(logits)
    torch.testing.assert_close(found, curvature[0, :, 0, :])


NAMES = {0: "cat", 1: "dog", 2: "cow"}


def test_answers_are_put_in_words_with_their_probabilities():
    logits = torch.tensor([1.0, 3.0, 0.0])
    shares = slow_softmax(logits.tolist())
    likely = [f"dog {100 * shares[1]:.1f} %", f"cat {100 * shares[0]:.1f} %"]
    assert SingleLabel().describe(logits, NAMES) == likely
    assert SingleLabel().describe_label(torch.tensor(2), NAMES) == "cow"
    present = MultiLabel().describe(torch.tensor([1.0, 3.0, -1.0]), NAMES)
    assert present == ["dog 95.3 %", "cat 73.1 %"]
    assert MultiLabel().describe(torch.tensor([-1.0, -2.0, -3.0]), NAMES) == ["no label"]
    assert MultiLabel().describe_label(torch.tensor([1.0, 0.0, 1.0]), NAMES) == "cat, cow"
    assert Regression().describe(torch.tensor([1.5]), {0: "age"}) == ["age: 1.5"]
    assert Regression().describe_label(torch.tensor(1.25), {}) == "1.25"


def test_a_task_without_words_of_its_own_tells_its_largest_outputs():
    assert Task.describe(SingleLabel(), torch.tensor([1.0, 3.0, 2.0]), NAMES) == ["dog 3", "cow 2"]
