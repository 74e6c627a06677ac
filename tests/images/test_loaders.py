# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from transformers import BatchFeature

from optimum_mixq.images.loaders import drawn_rows
from optimum_mixq.images.sources import open_images


PIXELS = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 5
ROWS = TensorDataset(PIXELS, LABELS)


def opened(loader, vit, role="evaluation"):
    images = open_images(loader, vit, None, role)
    batches = list(images.batches(range(len(images)), 5))
    labels = None if batches[0].labels is None else torch.cat([batch.labels for batch in batches])
    return torch.cat([batch.pixel_values for batch in batches]), labels


@pytest.mark.parametrize(
    ("loader", "expected"),
    [
        (DataLoader(ROWS, sampler=SubsetRandomSampler(range(4, 8))), [4, 5, 6, 7]),
        (DataLoader(Subset(ROWS, [2, 9]), shuffle=True), [0, 1]),
        (DataLoader(ROWS, batch_sampler=BatchSampler(SubsetRandomSampler([1, 2, 3]), 2, True)), None),
        (DataLoader(ROWS, batch_size=5, drop_last=True), list(range(10))),
        (DataLoader(ROWS, batch_size=None), list(range(12))),
        (DataLoader(ROWS, batch_size=None, sampler=np.array([3, 1])), [1, 3]),
        (DataLoader(ROWS, sampler=[0, 0, 5]), [0, 0, 5]),
    ],
)
def test_the_rows_are_those_that_the_sampler_draws(loader, expected, vit):
    rows = drawn_rows(loader)
    assert rows == expected if expected is not None else (len(rows) == 2 and set(rows) < {1, 2, 3})
    if not isinstance(loader.dataset, Subset):
        pixels, labels = opened(loader, vit)
        assert torch.equal(pixels, PIXELS[rows]) and torch.equal(labels, LABELS[rows])


@pytest.mark.parametrize("generator", [None, torch.Generator().manual_seed(5)])
def test_a_random_sampler_draws_the_same_rows_each_time_and_no_generator_moves(generator):
    samplers = (
        RandomSampler(ROWS, True, 6, generator=generator),
        WeightedRandomSampler([1.0] * 12, 6, generator=generator),
    )
    for sampler in samplers:
        before = torch.get_rng_state(), None if generator is None else generator.get_state()
        first, second = (drawn_rows(DataLoader(ROWS, sampler=sampler)) for _ in range(2))
        assert first == second and len(first) == 6
        assert torch.equal(torch.get_rng_state(), before[0])
        assert generator is None or torch.equal(generator.get_state(), before[1])


class Endless:
    def __iter__(self):
        while True:
            yield 1


class Streamed(IterableDataset):
    def __iter__(self):
        yield from PIXELS


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (lambda: DataLoader(ROWS, sampler=Endless()), "draws more than 10 times as many rows as its data set has"),
        (lambda: DataLoader(ROWS, sampler=["a", "b"]), r"sampler to draw rows 0..11, found 'a'"),
        (lambda: DataLoader(ROWS, sampler=[0, 12]), r"sampler to draw rows 0..11, found 12"),
        (lambda: DataLoader(ROWS, sampler=[-1]), r"sampler to draw rows 0..11, found -1"),
        (lambda: DataLoader(ROWS, batch_size=None, sampler=[[0, 1]]), r"to draw rows 0..11, found \[0, 1\]"),
        (lambda: DataLoader(ROWS, sampler=[]), "Expected at least one image, found none in the DataLoader"),
        (lambda: DataLoader(Streamed()), "Expected a DataLoader over a data set with a length, found an iterable"),
    ],
)
def test_what_a_sampler_cannot_draw_is_refused(loader, message, vit):
    with pytest.raises(ValueError, match=message):
        open_images(loader(), vit, None)


def collate_dict(rows):
    return {"pixel_values": torch.stack([row[0] for row in rows]), "labels": torch.stack([row[1] for row in rows])}


@pytest.mark.parametrize(
    ("loader", "labelled"),
    [
        (DataLoader(TensorDataset(PIXELS)), False),
        (DataLoader(ROWS, collate_fn=collate_dict), True),
        (DataLoader(ROWS, collate_fn=lambda rows: BatchFeature(collate_dict(rows))), True),
        (DataLoader(ROWS, collate_fn=lambda rows: (*collate_dict(rows).values(), "more")), True),
        (DataLoader(ROWS, collate_fn=lambda rows: torch.stack([row[0] for row in rows])), False),
        (DataLoader(TensorDataset(PIXELS.double(), LABELS)), True),
    ],
)
def test_batches_of_every_usual_form_are_taken_apart(loader, labelled, vit):
    pixels, labels = opened(loader, vit)
    assert torch.equal(pixels, PIXELS)
    assert torch.equal(labels, LABELS) if labelled else labels is None


class Broken(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise RuntimeError(f"no row {index} today")


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (DataLoader(Broken()), r"Cannot read row 0 of the DataLoader \(RuntimeError: no row 0 today\)"),
        (DataLoader(ROWS, collate_fn=lambda rows: []), "under 'pixel_values'; found list in row 0 of the DataLoader"),
        (DataLoader(ROWS, collate_fn=lambda rows: {"x": 1}), "under 'pixel_values'; found NoneType in row 0"),
        (DataLoader(TensorDataset(PIXELS[0])), r"under 'pixel_values'; found a tensor \(1, 16, 16\) in row 0"),
        (DataLoader(ROWS, collate_fn=lambda rows: PIXELS), r"found a tensor \(12, 3, 16, 16\) in row 0"),
    ],
)
def test_a_batch_without_pixel_values_is_named(loader, message, vit):
    with pytest.raises(ValueError, match=message):
        opened(loader, vit)


def test_labels_of_several_classes_come_through(vit):
    vit.config.problem_type = "multi_label_classification"
    several = torch.nn.functional.one_hot(LABELS, 5).float()
    _, labels = opened(DataLoader(TensorDataset(PIXELS, several)), vit)
    assert torch.equal(labels, several)
    vit.config.problem_type = "regression"
    _, labels = opened(DataLoader(TensorDataset(PIXELS, several * 0.3)), vit)
    assert torch.equal(labels, several * 0.3)


class NamedRows(TensorDataset):
    """With the attribute `classes` that torchvision's data sets have."""


def test_classes_that_a_torch_data_set_names_are_matched_by_name(vit):
    vit.config.id2label = {0: "ant", 1: "bee", 2: "cat", 3: "dog", 4: "eel"}
    rows = NamedRows(PIXELS, LABELS)
    rows.classes = ["eel", "dog", "cat", "bee", "ant"]
    for source in (rows, Subset(rows, range(12)), DataLoader(rows)):
        assert torch.equal(opened(source, vit)[1], 4 - LABELS)
    rows.target_transform = lambda label: label
    assert torch.equal(opened(rows, vit)[1], LABELS)
    del rows.target_transform
    rows.classes = ["Aal", "Hund", "Katze", "Biene", "Ameise"]
    with pytest.raises(ValueError, match="The data set's classes are not the model's .* the data set has Aal, Hund"):
        open_images(DataLoader(rows), vit, None, "evaluation")
    assert opened(rows, vit, "calibration")[1] is None
