# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pickle

import pytest
import torch

from optimum_mixq.tasks.features import Features
from optimum_mixq.tasks.meters import join_meters
from optimum_mixq.tasks.regression import Regression
from optimum_mixq.tasks.single_label import SingleLabel


def scored(task, logits, labels, sizes):
    meter = task.meter()
    for part, known in zip(logits.split(sizes), labels.split(sizes), strict=True):
        meter.add(part, known)
    return meter


@pytest.mark.parametrize("task", [SingleLabel(), Features()])
def test_batches_of_any_size_add_up_to_the_score_of_all_images(task):
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(12, 5, generator=generator), torch.randint(5, (12,), generator=generator)
    expected = task.accuracy(logits, labels)
    assert scored(task, logits, labels, [5, 1, 6]).value() == pytest.approx(expected)
    parts = [scored(task, logits[rows], labels[rows], 4) for rows in (slice(0, 8), slice(8, 12))]
    joined = join_meters([pickle.loads(pickle.dumps(meter)) for meter in parts])  # as processes send them
    assert joined.value() == pytest.approx(expected)


def test_numbers_and_no_images_at_all_have_no_score():
    assert scored(Regression(), torch.ones(4, 1), torch.ones(4), 2).value() is None
    assert SingleLabel().meter().value() is None and Features().meter().value() is None
