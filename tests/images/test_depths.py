# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import io
import json

import datasets
import numpy as np
import pytest
import torch
from conftest import make_model
from PIL import Image
from transformers import DPTImageProcessor, DPTImageProcessorPil

from optimum_mixq import open_images
from optimum_mixq.images.batches import Batch
from optimum_mixq.images.depths import MODES, read_depths
from optimum_mixq.images.fingerprints import digest_inputs


# Millimetres, and a column where nothing was measured.
DEPTHS = np.array([[0, 900, 1800, 40000]] * 4, dtype=np.uint16).repeat(4, 0).repeat(4, 1)  # (16, 16)
WANTED = torch.from_numpy(DEPTHS.astype(np.float32))


@pytest.fixture(scope="module")
def model():
    return make_model("dpt").cpu()


@pytest.fixture(scope="module")
def processor():
    return DPTImageProcessorPil(size={"height": 16, "width": 16})


def picture(side=16):
    return Image.fromarray(np.full((side, side, 3), 100, dtype=np.uint8))


def labels_of(source, model, processor, **options):
    options.setdefault("role", "evaluation")
    return next(open_images(source, model, processor, **options).batches([0], 1)).labels


@pytest.mark.parametrize("column", ["depth_map", "depth", "depth_image"])
def test_a_data_sets_column_of_depth_maps_is_found(model, processor, column):
    features = datasets.Features({"image": datasets.Image(), column: datasets.Image()})
    source = {"image": [picture()], column: [Image.fromarray(DEPTHS)]}
    rows = datasets.Dataset.from_dict(source, features=features)
    assert torch.equal(labels_of(rows, model, processor)[0], WANTED)


def test_a_column_of_arrays_serves_too_and_one_of_classes_is_left_alone(model, processor):
    features = datasets.Features({"image": datasets.Image(), "depth": datasets.Array2D((16, 16), "float32")})
    rows = datasets.Dataset.from_dict({"image": [picture()], "depth": [DEPTHS.astype(np.float32)]}, features=features)
    assert torch.equal(labels_of(rows, model, processor)[0], WANTED)
    assert labels_of({"image": [picture()], "label": [3]}, model, processor) is None


def write(kind):
    """Return a file of depths in metres: a PNG of 16 bits, or a TIFF of floats."""
    values = DEPTHS if kind == "PNG" else DEPTHS.astype(np.float32)
    content = io.BytesIO()
    Image.fromarray(values).save(content, kind)
    return content.getvalue()


def test_files_pictures_and_arrays_hold_depths():
    given = [
        write("PNG"), write("TIFF"), {"bytes": write("PNG"), "path": None}, Image.fromarray(DEPTHS),
        Image.fromarray(DEPTHS.astype(np.int32)), Image.fromarray(DEPTHS.astype(np.float32)), DEPTHS,
        DEPTHS.astype(">u2"), DEPTHS.tolist(), WANTED, WANTED[None], DEPTHS[:, :, None],
    ]  # fmt: skip
    for value in given:
        assert torch.equal(read_depths(value), WANTED)
    assert {picture.mode for picture in given if isinstance(picture, Image.Image)} <= set(MODES)
    assert torch.equal(read_depths(Image.fromarray((DEPTHS // 200).astype(np.uint8))), torch.floor(WANTED / 200))
    halved = WANTED.bfloat16()
    assert torch.equal(read_depths(halved), halved.float()) and read_depths(None) is None


def test_what_is_no_positive_finite_number_was_not_measured():
    values = [[np.nan, np.inf, -np.inf, -1.0, 0.0, 1e300, 2.5]]
    assert read_depths(np.array(values)).tolist() == [[0, 0, 0, 0, 0, 0, 2.5]]


@pytest.mark.parametrize("make", [DPTImageProcessor, DPTImageProcessorPil])
def test_a_depth_map_is_resized_with_its_image_by_the_nearest_pixel(model, make):
    processor = make(size={"height": 16, "width": 16})
    (found,) = labels_of([(picture(4), Image.fromarray(DEPTHS[::4, ::4]))], model, processor)
    assert torch.equal(found, WANTED)
    (found,) = labels_of([(picture(64), DEPTHS.repeat(4, 0).repeat(4, 1))], model, processor)
    assert torch.equal(found, WANTED)


def test_pixel_values_come_with_depth_maps_as_they_are(model):
    source = {"pixel_values": torch.zeros(1, 3, 16, 16), "depth": WANTED[None]}
    assert torch.equal(labels_of(source, model, None)[0], WANTED)
    match = "Expected a depth map of the size of its image, 16 x 16, found 8 x 8 in row 0"
    with pytest.raises(ValueError, match=match):
        labels_of({**source, "depth": WANTED[None, ::2, ::2]}, model, None)


def test_a_folder_names_its_depth_maps_in_a_table(model, processor, tmp_path):
    (tmp_path / "depths").mkdir()
    for number in range(2):
        picture().save(tmp_path / f"{number}.png")
        Image.fromarray(DEPTHS + number).save(tmp_path / "depths" / f"{number}.png")
    rows = (json.dumps({"file_name": f"{row}.png", "depth_file_name": f"depths/{row}.png"}) for row in range(2))
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    images = open_images(tmp_path, model, processor, "evaluation")
    assert len(images) == 2
    assert torch.equal(next(images.batches([1], 1)).labels[0], WANTED + 1)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (
            picture(),
            "a depth map of mode RGB, instead of one channel of distances. Save it as a PNG of 16 bits, or as",
        ),
        (picture().convert("P"), "a depth map of mode P, instead of one channel"),
        (3, r"a label int64 \(\), instead of a depth map \(height, width\)"),
        (np.zeros((16, 16, 3)), r"a label float64 \(16, 16, 3\), instead of a depth map"),
        (np.zeros((2, 2), dtype=bool), r"a label bool \(2, 2\), instead of a depth map"),
        ([[1.0, 2.0], [3.0]], r"a label \[\[1.0, 2.0\], \[3.0\]\], instead of a depth map"),
        (b"nothing", "a depth map that cannot be read"),
    ],
)
def test_what_is_no_depth_map_is_said(value, match):
    with pytest.raises(ValueError, match=match):
        read_depths(value)


def test_a_map_without_any_distance_is_said_with_its_row_and_calibrates_as_none(model, processor):
    rows = [(picture(), np.zeros((16, 16)))]
    match = "Row 0 of the list of images has no distance in its depth map: all pixels are 0, negative, infinite or no"
    with pytest.raises(ValueError, match=match):
        labels_of(rows, model, processor)
    assert labels_of(rows, model, processor, role="calibration") is None


def test_a_depth_map_of_another_size_than_its_picture_is_refused(model, processor):
    match = (
        "refuses row 0 of the list of images: its depth map is 16 x 16 and the image 32 x 32: resize it to its image, "
        "each pixel the nearest one"
    )
    with pytest.raises(ValueError, match=match):
        labels_of([(picture(32), DEPTHS)], model, processor)


def test_a_processor_that_pads_is_refused_for_images_with_depth_maps(model):
    processor = DPTImageProcessorPil(size={"height": 12, "width": 12}, do_pad=True, size_divisor=16)
    with pytest.raises(
        ValueError, match="since depth maps are resized as a whole, found one with do_pad=True. Set do"
    ):
        labels_of([(picture(), DEPTHS)], model, processor)
    assert labels_of([picture()], model, processor) is None


def test_the_digest_of_labelled_images_knows_each_pixel_of_a_map(model):
    other = WANTED.clone()
    other[3, 7] += 1
    pixels = torch.zeros(1, 3, 16, 16)
    digests = [digest_inputs(model, [Batch(pixels, each[None], ("",))])["images"] for each in (WANTED, other)]
    assert digests[0] != digests[1]


def test_names_of_classes_are_refused(model, processor):
    with pytest.raises(ValueError, match="Expected no label_names for depth maps, found some: the pixels of a depth"):
        labels_of([(picture(), DEPTHS)], model, processor, label_names={"a": 0})
