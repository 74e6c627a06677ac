# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import json

import datasets
import numpy as np
import pytest
import torch
from conftest import make_model
from PIL import Image
from transformers import SegformerImageProcessorPil

from optimum_mixq import open_images
from optimum_mixq.images.masks import read_mask


MASK = np.array([[0, 1, 255, 4]] * 4, dtype=np.uint8).repeat(8, 0).repeat(8, 1)  # (32, 32)


@pytest.fixture(scope="module")
def model():
    return make_model("segmenting_segformer")


@pytest.fixture(scope="module")
def processor():
    return SegformerImageProcessorPil(size={"height": 32, "width": 32})


def picture(side=32):
    return Image.fromarray(np.full((side, side, 3), 100, dtype=np.uint8))


def labels_of(source, model, processor, **options):
    options.setdefault("role", "evaluation")
    return next(open_images(source, model, processor, **options).batches([0], 1)).labels


@pytest.mark.parametrize("column", ["annotation", "mask", "segmentation_mask", "label"])
def test_a_data_sets_column_of_masks_is_found(model, processor, column):
    features = datasets.Features({"image": datasets.Image(), column: datasets.Image()})
    rows = datasets.Dataset.from_dict({"image": [picture()], column: [Image.fromarray(MASK)]}, features=features)
    assert torch.equal(labels_of(rows, model, processor)[0], torch.from_numpy(MASK).long())


def test_a_mask_is_resized_with_its_image_by_the_nearest_pixel(model, processor):
    small = Image.fromarray(MASK[::2, ::2])
    (found,) = labels_of([(picture(16), small)], model, processor)
    assert torch.equal(found, torch.from_numpy(MASK).long())


def test_a_processor_that_reduces_labels_makes_the_background_no_class(model):
    processor = SegformerImageProcessorPil(size={"height": 32, "width": 32}, do_reduce_labels=True)
    (found,) = labels_of([(picture(), Image.fromarray(MASK))], model, processor)
    assert found.unique().tolist() == [0, 3, 255] and (found[:, :8] == 255).all()


def test_pixel_values_come_with_masks_as_they_are(model):
    source = {"pixel_values": torch.zeros(1, 3, 32, 32), "mask": torch.from_numpy(MASK)[None]}
    assert torch.equal(labels_of(source, model, None)[0], torch.from_numpy(MASK).long())
    with pytest.raises(ValueError, match="Expected a mask of the size of its image, 32 x 32, found 16 x 16 in row 0"):
        labels_of({**source, "mask": source["mask"][:, ::2, ::2]}, model, None)


def test_images_without_masks_have_no_labels(model, processor):
    assert labels_of([picture()], model, processor) is None


def test_a_folder_names_its_masks_in_a_table(model, processor, tmp_path):
    (tmp_path / "masks").mkdir()
    for number in range(2):
        picture().save(tmp_path / f"{number}.png")
        Image.fromarray(MASK).save(tmp_path / "masks" / f"{number}.png")
    rows = (json.dumps({"file_name": f"{row}.png", "mask_file_name": f"masks/{row}.png"}) for row in range(2))
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    images = open_images(tmp_path, model, processor, "evaluation")
    assert len(images) == 2
    assert torch.equal(next(images.batches([1], 1)).labels[0], torch.from_numpy(MASK).long())


def test_a_class_that_the_model_does_not_have_is_said_with_its_row(model, processor):
    wrong = Image.fromarray(np.full((32, 32), 7, dtype=np.uint8))
    match = r"Row 0 of the list of images has class 7 in its mask, but the model has 5 classes \(0..4, and 255"
    with pytest.raises(ValueError, match=match):
        labels_of([(picture(), wrong)], model, processor)
    assert labels_of([(picture(), wrong)], model, processor, role="calibration") is None


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (picture(), "a mask of mode RGB, instead of one channel of class numbers. Save it as a PNG of mode L or P"),
        (torch.tensor(3), r"a label torch.int64 \(\), instead of a mask of class numbers \(height, width\)"),
        (np.full((2, 2), 0.5), "a label torch.float64"),
        (b"nothing", "a mask that cannot be read"),
    ],
)
def test_what_is_no_mask_is_said(value, match):
    with pytest.raises(ValueError, match=match):
        read_mask(value)


def test_a_mask_of_another_size_than_its_picture_is_refused(model, processor):
    with pytest.raises(ValueError, match="refuses row 0 of the list of images: its mask is 32 x 32 and the image 16"):
        labels_of([(picture(16), Image.fromarray(MASK))], model, processor)


def test_names_of_classes_are_refused(model, processor):
    with pytest.raises(ValueError, match="Expected no label_names for masks, found some: the pixels of a mask"):
        labels_of([(picture(), Image.fromarray(MASK))], model, processor, label_names={"a": 0})
