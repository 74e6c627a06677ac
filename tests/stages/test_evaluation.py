# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import copy
import math

import pytest
import torch
from conftest import random_pixels

from optimum_mixq.images.sources import open_images
from optimum_mixq.stages.evaluation import measure_divergences, measure_logits, score


def test_scores_are_those_of_the_definitions():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    reference = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    result = score(logits, torch.tensor([0, 1, 1]), reference)
    expected = 0.0
    for row, target in zip(logits.tolist(), reference.tolist(), strict=True):
        p = [math.exp(value) / sum(map(math.exp, target)) for value in target]
        q = [math.exp(value) / sum(map(math.exp, row)) for value in row]
        expected += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 3
    assert result.accuracy == pytest.approx(2 / 3) and result.agreement == pytest.approx(2 / 3)
    assert result.kl == pytest.approx(expected) and result.images == 3


def test_what_is_not_known_is_none():
    result = score(torch.zeros(2, 3), None)
    assert (result.accuracy, result.agreement, result.kl, result.accuracy_interval) == (None, None, None, None)


def test_the_models_mode_comes_back(vit):
    images = open_images(random_pixels(vit), vit, None)
    measure_logits(vit.train(), images.batches(range(4), 2))
    assert vit.training


def test_no_images_are_said(vit):
    with pytest.raises(ValueError, match="There are no images to evaluate on"):
        measure_logits(vit, [])


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_divergences_are_taken_until_they_are_enough_however_images_lie_in_batches(vit, batch):
    other, asked = copy.deepcopy(vit), []
    other.classifier.weight.data *= 1.5
    images = list(open_images(random_pixels(vit, 8), vit, None).batches(range(8), batch))

    def enough(found):
        asked.append({name: row.tolist() for name, row in found.items()})
        return len(found["other"]) == 4

    found = measure_divergences(vit, {"own": vit, "other": other}, images, 2.0, enough, 2)
    assert [len(divergences["other"]) for divergences in asked] == [2, 4]
    logits = [measure_logits(model, images)[0].double() / 2 for model in (vit, other)]
    shares = [rows.softmax(-1) for rows in logits]
    expected = 4 * (shares[0] * (shares[0] / shares[1]).log()).sum(-1)  # times the squared temperature
    assert found["other"].tolist() == pytest.approx(expected[:4].tolist())
    assert found["own"].tolist() == pytest.approx([0] * 4)
    everything = measure_divergences(vit, {"other": other}, images, 2.0, lambda _: False, 2)["other"]
    assert everything.tolist() == pytest.approx(expected.tolist())
