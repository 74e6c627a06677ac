# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from conftest import random_pixels

from optimum_mixq import open_images
from optimum_mixq.images.label_kinds import Classes, LabelKind, _kinds, label_kind_of, register_label_kind
from optimum_mixq.images.labels import LabelReader
from optimum_mixq.images.preparation import Preparation


class DoubledPreparation(Preparation):
    def stack(self, images, labels, indices):
        pixels, labels = super().stack(images, labels, indices)
        return pixels, [label * 2 for label in labels]


@pytest.fixture
def points():
    """Labels that are a pair of numbers per image, in a column of their own, and change with their image."""

    @register_label_kind
    class Points(LabelKind):
        columns = ("point",)

        def handles(self, model):
            return model.config.model_type == "vit"

        def reader(self, model, feature=None, label_names=None):
            return LabelReader(lambda value: torch.as_tensor(value))

        def preparation(self, model, processor, description):
            return DoubledPreparation(model, processor, description)

    yield Points
    del _kinds[0]


def test_labels_of_a_registered_kind_are_found_read_and_prepared_with_their_images(vit, points):
    columns = {"pixel_values": random_pixels(vit, 2), "point": [[1.0, 2.0], [3.0, 4.0]], "label": [9, 9]}
    for source in (
        columns,
        [{"image": columns["pixel_values"][row], "point": columns["point"][row]} for row in (0, 1)],
    ):
        (batch,) = open_images(source, vit, None).batches(range(2), 2)
        assert batch.labels.tolist() == [[2.0, 4.0], [6.0, 8.0]]


def test_classes_are_what_labels_are_otherwise(vit):
    assert type(label_kind_of(vit)) is Classes
