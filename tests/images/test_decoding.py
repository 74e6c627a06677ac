# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_utils import load_image

from optimum_mixq.images.decoding import read_picture


def random_bytes(height=12, width=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright_as_pipelines_do(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(random_bytes()).save(tmp_path / "a.png", exif=exif)
    expected = np.asarray(load_image(str(tmp_path / "a.png")))
    with Image.open(tmp_path / "a.png") as opened:
        for value in (tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), opened):
            assert np.array_equal(np.asarray(read_picture(value, "a")), expected)
    assert expected.shape == ((12, 8, 3) if orientation < 5 else (8, 12, 3))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"])
def test_every_mode_becomes_what_pipelines_make_of_it(mode):
    picture = Image.fromarray(random_bytes())
    picture = picture.convert(mode) if mode != "LAB" else picture.convert("RGB")
    assert np.array_equal(np.asarray(read_picture(picture, "a")), np.asarray(load_image(picture)))


def test_a_palette_with_transparency_warns_of_nothing(tmp_path):
    picture = Image.fromarray(random_bytes()).quantize(16)
    picture.save(tmp_path / "a.png", transparency=bytes(range(16)))
    assert read_picture(tmp_path / "a.png", "a").mode == "RGB"


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    values = np.linspace(0, 65535, 96).astype(np.uint16).reshape(12, 8)
    expected = np.round(values / 257).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "a.tif")
    for value in (tmp_path / "a.png", tmp_path / "a.tif", Image.fromarray(values.astype(np.int32))):
        found = np.asarray(read_picture(value, "a"))
        assert found.shape == (12, 8, 3)
        assert np.abs(found[:, :, 0].astype(int) - expected).max() <= 1 and len(np.unique(found)) > 50


def test_values_of_unknown_range_are_refused():
    with pytest.raises(ValueError, match="Cannot read the image in row 3: expected 16-bit values, found 0..70000"):
        read_picture(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)), "row 3")
    with pytest.raises(ValueError, match="Cannot read the image in row 3: .* floating-point numbers of unknown range"):
        read_picture(Image.fromarray(np.zeros((2, 2), dtype=np.float32)), "row 3")


@pytest.mark.parametrize("shape", [(12, 8), (12, 8, 1), (12, 8, 3), (12, 8, 4)])
def test_arrays_of_bytes_are_pictures(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = np.asarray(read_picture(array, "a"))
    colours = array.reshape(12, 8, -1)[:, :, :3]
    assert np.array_equal(found, np.broadcast_to(colours, (12, 8, 3)))


@pytest.mark.parametrize("array", [np.zeros((3, 12, 8), np.uint8), np.zeros((12, 8, 3)), np.zeros(3, np.uint8)])
def test_other_arrays_are_refused(array):
    with pytest.raises(ValueError, match=r"Expected a uint8 array \(height, width, 3\) in row 1, found"):
        read_picture(array, "row 1")


def test_float_tensors_are_pixel_values_and_others_are_refused():
    assert read_picture(torch.zeros(3, 4, 4, dtype=torch.float64), "a").dtype == torch.float32
    with pytest.raises(ValueError, match=r"Expected pixel values as a float tensor .* in row 1, found torch.uint8"):
        read_picture(torch.zeros(3, 4, 4, dtype=torch.uint8), "row 1")


def test_a_picture_too_large_to_be_true_is_named(tmp_path, monkeypatch, caplog):
    Image.new("1", (100, 90)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    assert read_picture(tmp_path / "a.png", "a.png").size == (100, 90)
    assert caplog.messages == ["The picture in a.png has 100 x 90 pixels."]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(ValueError, match=r"Cannot read the image in a.png: .*exceeds limit.* Remove or replace that"):
        read_picture(tmp_path / "a.png", "a.png")
