# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Objects of images, as data sets write them, become classes of the model and boxes in parts of the image."""

import datasets
import pytest
import torch
from conftest import make_model
from PIL import Image
from transformers import YolosImageProcessorPil

from optimum_mixq.images.sources import open_images


SIZE = (48, 32)  # width, height
BOX = [12.0, 8.0, 24.0, 16.0]
EXPECTED = [0.5, 0.5, 0.5, 0.5, 0.0]


@pytest.fixture
def detector():
    model = make_model("yolos").cpu()
    model.config.id2label = {0: "shirt", 1: "bag", 2: "boot", 3: "coat", 4: "dress"}
    return model


@pytest.fixture
def processor():
    return YolosImageProcessorPil(size={"height": 16, "width": 24})


def read(model, processor, objects, role="evaluation", **options):
    rows = [{"image": Image.new("RGB", SIZE), "objects": objects}]
    return next(open_images(rows, model, processor, role, **options).batches([0], 1)).labels


@pytest.mark.parametrize(
    "objects",
    [
        {"bbox": [BOX], "category": [1]},
        {"bbox": torch.tensor([BOX]), "category": torch.tensor([1])},
        {"bbox": [BOX], "category_id": [1], "iscrowd": [0], "id": [7]},
        [{"bbox": BOX, "category": 1}],
        [{"bbox": BOX, "category": "bag", "area": 384}],
    ],
)
def test_objects_are_read_from_dicts_of_lists_and_lists_of_dicts(detector, processor, objects):
    assert read(detector, processor, objects)[0].tolist() == [pytest.approx([1, *EXPECTED])]


def test_classes_of_a_data_set_are_matched_by_name(detector, processor):
    names = datasets.ClassLabel(names=["dress", "shirt", "bag"])
    feature = datasets.List({"bbox": datasets.List(datasets.Value("float32"), length=4), "category": names})
    rows = datasets.Dataset.from_dict(
        {"image": [Image.new("RGB", SIZE)], "objects": [[{"bbox": BOX, "category": 0}, {"bbox": BOX, "category": 2}]]},
        features=datasets.Features(image=datasets.Image(), objects=feature),
    )
    labels = next(open_images(rows, detector, processor).batches([0], 1)).labels
    assert labels[0, :, 0].tolist() == [4, 1]


def test_classes_that_the_model_does_not_have_are_refused_with_their_names(detector, processor):
    names = datasets.ClassLabel(names=["zebra", "bag"])
    feature = datasets.List({"bbox": datasets.List(datasets.Value("float32"), length=4), "category": names})
    rows = datasets.Dataset.from_dict(
        {"image": [Image.new("RGB", SIZE)], "objects": [[{"bbox": BOX, "category": 0}]]},
        features=datasets.Features(image=datasets.Image(), objects=feature),
    )
    with pytest.raises(ValueError, match="The data set's classes are not the model's .'zebra' is unknown"):
        open_images(rows, detector, processor, "evaluation")
    renamed = open_images(rows, detector, processor, label_names={"zebra": "boot"})
    assert next(renamed.batches([0], 1)).labels[0, 0, 0] == 2


def test_a_crowd_is_marked_and_what_has_no_area_is_left_out(detector, processor):
    objects = {"bbox": [BOX, [1, 1, 0, 5]], "category": [1, 2], "iscrowd": [1, 0]}
    assert read(detector, processor, objects)[0].tolist() == [pytest.approx([1, *EXPECTED[:-1], 1])]


def test_a_model_of_one_class_has_objects_of_that_class(processor):
    model = make_model("yolos").cpu()
    model.config.num_labels = 1
    assert read(model, processor, {"bbox": [BOX], "category": [0]})[0, 0, 0] == 0


def test_boxes_of_pixel_values_are_in_their_pixels(detector):
    rows = [(torch.zeros(3, 16, 24), {"bbox": [[6.0, 4.0, 12.0, 8.0]], "category": [1]})]
    labels = next(open_images(rows, detector, None).batches([0], 1)).labels
    assert labels[0].tolist() == [pytest.approx([1, *EXPECTED])]


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (3, "objects 3, which are no list of dicts and no dict of lists"),
        ({"boxes": [BOX]}, "objects with boxes, and not with 'bbox' and 'category'"),
        ({"bbox": [BOX], "category": [0, 1]}, "1 boxes and 2 classes of objects"),
        ({"bbox": [BOX[:3]], "category": [0]}, r"a box \[12.0, 8.0, 24.0\], which is not \(x, y, width, height\)"),
        ({"bbox": [[1, 1, -1, 2]], "category": [0]}, r"a box \[1.0, 1.0, -1.0, 2.0\], which is not"),
        ({"bbox": [BOX], "category": [5]}, r"label 5, but the model has 5 classes \(0..4\)"),
        ({"bbox": [BOX], "category": [-1]}, "an object without a class"),
    ],
)
def test_what_are_no_objects_of_the_model_is_refused_for_evaluation_alone(detector, processor, objects, message):
    with pytest.raises(ValueError, match=f"Row 0 of the list of images has {message}"):
        read(detector, processor, objects)
    assert read(detector, processor, objects, "calibration") is None


def test_boxes_by_two_corners_are_refused(detector, processor):
    with pytest.raises(ValueError, match=r"has a box \(30, 20, 47, 31\) that reaches beyond its image of 48 x 32 pix"):
        read(detector, processor, {"bbox": [[30, 20, 47, 31]], "category": [0]})


def test_a_processor_of_many_sizes_is_given_that_of_the_model(detector):
    processor = YolosImageProcessorPil(size={"shortest_edge": 20, "longest_edge": 40})
    pictures = [{"image": Image.new("RGB", size)} for size in (SIZE, SIZE[::-1])]
    assert next(open_images(pictures, detector, processor).batches([0, 1], 2)).pixel_values.shape == (2, 3, 16, 24)


def test_a_processor_that_crops_is_refused(detector, processor):
    processor.do_center_crop = True
    with pytest.raises(ValueError, match="Expected an image processor that keeps the whole picture"):
        read(detector, processor, {"bbox": [BOX], "category": [0]})
