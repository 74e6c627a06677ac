# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch

from optimum_mixq.images.batches import Batch, Images, draw_rows, take_images


def images_of(count=6, labels=None):
    """Return `count` rows of 16 x 16 pixels, row i drawn by seed i."""

    def read(index):
        pixels = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(index))
        return pixels, None if labels is None else labels[index]

    return Images(count, read, lambda images, labels, _: (torch.stack(images), labels), 5, "the data set")


def all_batches(images, size=4):
    return list(images.batches(range(len(images)), size))


def test_the_same_seed_draws_the_same_rows_and_another_seed_others():
    images = images_of(100)
    assert draw_rows(images, 10, seed=3) == draw_rows(images, 10, seed=3)
    assert draw_rows(images, 10, seed=3) != draw_rows(images, 10, seed=4)
    assert len(set(draw_rows(images, 100, seed=0))) == 100


def test_a_label_outside_the_models_classes_is_said_with_its_row():
    images = images_of(labels=[0, 1, 2, 9, 0, 0])
    with pytest.raises(ValueError, match=r"Row 3 of the data set has label 9, but the model has 5 classes \(0..4\)"):
        all_batches(images)


def test_fewer_images_than_asked_for_is_said_with_both_numbers():
    images = images_of(6)
    for count in (0, -1):
        with pytest.raises(ValueError, match=f"Expected a positive number of images .*, found {count}"):
            draw_rows(images, count, seed=0)
    with pytest.raises(
        ValueError, match="Expected at least 32 images, found 6 in the data set. Add images, or ask for"
    ):
        draw_rows(images, 32, seed=0)


def test_a_batch_in_parts_keeps_each_images_label_and_fingerprint():
    batch = Batch(torch.arange(5.0).view(5, 1, 1, 1), torch.arange(5), tuple("abcde"))
    parts = batch.split(2)
    assert [part.fingerprints for part in parts] == [("a", "b"), ("c", "d"), ("e",)]
    assert [part.labels.tolist() for part in parts] == [[0, 1], [2, 3], [4]]
    assert torch.equal(torch.cat([part.pixel_values for part in parts]), batch.pixel_values)


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (4, [4]), (6, [4, 2]), (8, [4, 4]), (9, [4, 4])])
def test_the_first_images_are_taken_across_batches(count, sizes):
    batches = all_batches(images_of(8))
    taken = take_images(batches, count)
    assert [len(batch) for batch in taken] == sizes
    whole = torch.cat([batch.pixel_values for batch in batches])
    assert torch.equal(torch.cat([batch.pixel_values for batch in taken]), whole[:count])
