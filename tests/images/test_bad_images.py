# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Broken and unusual images, in every kind of source that can hold them, for both roles.

Each ends in pixels that are right or in one ValueError of a sentence or two that names the place.
"""

import io
import os
import re
import zlib

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from optimum_mixq.images.sources import open_images


def colours(height=16, width=16):
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(picture, kind="png", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png_of_size(width, height):
    """Return a PNG that promises more pixels than it has bytes."""

    def chunk(kind, data):
        checksum = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + checksum

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def corrupted(content, start):
    return content[:start] + bytes(255 - byte for byte in content[start : start + 40]) + content[start + 40 :]


RGB = Image.fromarray(colours())
SIXTEEN = Image.fromarray(np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16))
PNG, JPEG = encode(RGB), encode(RGB, "jpeg")
# Content of files, and whether there is a picture in it.
FILES = {
    "png": (PNG, True),
    "jpeg": (JPEG, True),
    "webp": (encode(RGB, "webp"), True),
    "bmp": (encode(RGB, "bmp"), True),
    "tiff": (encode(RGB, "tiff"), True),
    "one pixel": (encode(Image.new("RGB", (1, 1))), True),
    "one row": (encode(Image.fromarray(colours(1, 40))), True),
    "three columns": (encode(Image.fromarray(colours(40, 3))), True),
    "sixteen bits": (encode(SIXTEEN), True),
    "one bit": (encode(RGB.convert("1")), True),
    "grey": (encode(RGB.convert("L")), True),
    "grey with alpha": (encode(RGB.convert("LA")), True),
    "alpha": (encode(RGB.convert("RGBA")), True),
    "palette": (encode(RGB.quantize(8)), True),
    "transparent palette": (encode(RGB.quantize(8), transparency=bytes(range(8))), True),
    "cmyk": (encode(RGB.convert("CMYK"), "jpeg"), True),
    "animated": (encode(RGB, "gif", save_all=True, append_images=[RGB.rotate(90)]), True),
    "truncated png": (PNG[:200], False),
    "truncated jpeg": (JPEG[: len(JPEG) // 2], False),
    "header alone": (PNG[:33], False),
    "nothing": (b"", False),
    "one byte": (b"\x89", False),
    "text": (b"this is no image\n", False),
    "page": (b"<html><body>404 Not Found</body></html>", False),
    "zeros": (bytes(4096), False),
    "wrong checksum": (corrupted(PNG, 60), False),
    "decompression bomb": (png_of_size(20_000, 20_000), False),
    "no pixels": (png_of_size(0, 0), False),
    "floats": (encode(Image.fromarray(np.zeros((4, 4), np.float32)), "tiff"), False),
    "wide integers": (encode(Image.fromarray(np.full((4, 4), 10**6, np.int32)), "tiff"), False),
}
ARRAYS = {
    "bytes": (colours(), True),
    "grey bytes": (colours()[:, :, 0], True),
    "one channel": (colours()[:, :, :1], True),
    "four channels": (np.concatenate([colours(), colours()[:, :, :1]], 2), True),
    "not contiguous": (colours(32, 32)[::2, ::2], True),
    "two channels": (colours()[:, :, :2], False),
    "five channels": (np.zeros((8, 8, 5), np.uint8), False),
    "channels first": (np.zeros((3, 16, 16), np.uint8), False),
    "floats": (np.zeros((16, 16, 3), np.float32), False),
    "sixteen bits": (np.zeros((16, 16, 3), np.uint16), False),
    "booleans": (np.zeros((16, 16), bool), False),
    "one dimension": (np.zeros(16, np.uint8), False),
    "four dimensions": (np.zeros((1, 16, 16, 3), np.uint8), False),
    "no rows": (np.zeros((0, 16, 3), np.uint8), False),
}
TENSORS = {
    "right": (torch.zeros(3, 16, 16), True),
    "double": (torch.zeros(3, 16, 16, dtype=torch.float64), True),
    "half": (torch.zeros(3, 16, 16, dtype=torch.bfloat16), True),
    "with gradient": (torch.zeros(3, 16, 16, requires_grad=True), True),
    "NaN": (torch.full((3, 16, 16), float("nan")), False),
    "infinite": (torch.full((3, 16, 16), float("inf")), False),
    "beyond float32": (torch.full((3, 16, 16), 1e300, dtype=torch.float64), False),
    "one channel": (torch.zeros(1, 16, 16), False),
    "four channels": (torch.zeros(4, 16, 16), False),
    "other size": (torch.zeros(3, 20, 16), False),
    "bytes": (torch.zeros(3, 16, 16, dtype=torch.uint8), False),
    "integers": (torch.zeros(3, 16, 16, dtype=torch.int64), False),
    "complex": (torch.zeros(3, 16, 16, dtype=torch.complex64), False),
    "two dimensions": (torch.zeros(16, 16), False),
    "four dimensions": (torch.zeros(1, 3, 16, 16), False),
    "empty": (torch.zeros(3, 0, 16), False),
}
OTHERS = {
    "none": (None, False),
    "number": (7, False),
    "missing file": ("no/such/file.png", False),
    "address": ("https://example.org/cat.png", False),
    "set": ({1, 2}, False),
    "function": (len, False),
}


class Rows(Dataset):
    def __init__(self, pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


def in_folder(path, content):
    for name, one in (("0", PNG), ("1", content)):
        (path / name).mkdir()
        (path / name / "x.png").write_bytes(one)
    return path


def in_files(path, content):
    in_folder(path, content)
    return [path / "0" / "x.png", str(path / "1" / "x.png")]


def in_dataset(path, content):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    columns = {"image": [{"bytes": one, "path": None} for one in (PNG, content)], "label": [0, 1]}
    return datasets.Dataset.from_dict(columns, features=features)


def in_parquet(path, content):
    in_dataset(path, content).to_parquet(path / "test.parquet")
    return path


FILE_SOURCES = {
    "folder": in_folder,
    "files": in_files,
    "data set": in_dataset,
    "parquet": in_parquet,
    "bytes": lambda path, content: [PNG, content],
    "columns": lambda path, content: {"image": in_files(path, content), "label": [0, 1]},
}
GOOD_TENSOR = torch.zeros(3, 16, 16)
VALUE_SOURCES = {
    "list": lambda good, bad: [good, bad],
    "pairs": lambda good, bad: [(good, 0), (bad, 1)],
    "columns": lambda good, bad: {"image": [good, bad], "label": [0, 1]},
    "torch data set": lambda good, bad: Rows([(good, 0), (bad, 1)]),
    "dicts": lambda good, bad: Rows([{"image": good, "label": 0}, {"image": bad, "label": 1}]),
    "loader": lambda good, bad: DataLoader(Rows([(good, 0), (bad, 1)])),
}
ROLES = ("calibration", "evaluation")


def read(source, model, processor, role):
    images = open_images(source, model, processor, role)
    return torch.cat([batch.pixel_values for batch in images.batches(range(len(images)), 2)])


def check(source, right, place, model, processor, role):
    """Fail unless the pixels come out right, or one clear ValueError does."""
    if right:
        pixels = read(source, model, processor, role)
        assert pixels.shape == (2, 3, 16, 16) and pixels.dtype == torch.float32 and pixels.isfinite().all()
        return
    with pytest.raises(ValueError) as caught:
        read(source, model, processor, role)
    text = str(caught.value)
    assert type(caught.value) is ValueError and re.search(place, text), text
    assert "\n" not in text and len(text) < 500, text
    assert len(re.findall(r"[.!?]( |$)", text)) <= 3, text


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", FILE_SOURCES)
@pytest.mark.parametrize("file", FILES)
def test_a_file_is_read_right_or_named(file, kind, role, tmp_path, vit, processor):
    content, right = FILES[file]
    check(FILE_SOURCES[kind](tmp_path, content), right, r"row 1|1/x\.png", vit, processor, role)


@pytest.mark.parametrize("kind", VALUE_SOURCES)
@pytest.mark.parametrize("array", ARRAYS)
def test_an_array_is_read_right_or_named(array, kind, vit, processor):
    value, right = ARRAYS[array]
    if kind == "loader":  # collates to tensors of bytes, which are no pixel values
        right = False
    check(VALUE_SOURCES[kind](colours(), value), right, "[Rr]ow [01]", vit, processor, "evaluation")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", VALUE_SOURCES)
@pytest.mark.parametrize("tensor", TENSORS)
def test_a_tensor_is_read_right_or_named(tensor, kind, role, vit):
    value, right = TENSORS[tensor]
    check(VALUE_SOURCES[kind](GOOD_TENSOR, value), right, "[Rr]ow 1|images with 3 channels|16 x 16", vit, None, role)


@pytest.mark.parametrize("kind", VALUE_SOURCES)
@pytest.mark.parametrize("other", OTHERS)
def test_what_is_no_image_is_named(other, kind, vit, processor):
    value, right = OTHERS[other]
    check(VALUE_SOURCES[kind](RGB, value), right, "[Rr]ow [01]|no/such/file|example.org", vit, processor, "evaluation")


@pytest.mark.parametrize("length", range(0, len(PNG) - 40, 37))
def test_a_file_cut_anywhere_is_named(length, tmp_path, vit, processor):
    (tmp_path / "x.png").write_bytes(PNG[:length])
    check([RGB, tmp_path / "x.png"], False, "x.png", vit, processor, "evaluation")


@pytest.mark.parametrize("start", range(0, len(JPEG), 23))
def test_a_file_with_bytes_turned_over_is_read_or_named(start, tmp_path, vit, processor):
    (tmp_path / "x.jpg").write_bytes(corrupted(JPEG, start))
    try:
        read([RGB, tmp_path / "x.jpg"], vit, processor, "evaluation")
    except ValueError as error:
        assert "x.jpg" in str(error) and "\n" not in str(error)


def test_a_directory_that_is_called_like_an_image_is_named(tmp_path, vit, processor):
    (tmp_path / "x.png").mkdir()
    check([RGB, tmp_path / "x.png"], False, "x.png", vit, processor, "evaluation")
    in_folder(tmp_path, PNG)
    check(tmp_path, True, "", vit, processor, "calibration")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_may_not_be_read_is_named(tmp_path, vit, processor):
    (tmp_path / "x.png").write_bytes(PNG)
    (tmp_path / "x.png").chmod(0)
    check([RGB, tmp_path / "x.png"], False, "x.png", vit, processor, "evaluation")


@pytest.mark.parametrize("split", ["train[:1]", "train", "test", "dev", "", "train[", "train[:0]", "train+test", 7])
@pytest.mark.parametrize("layout", ["flat", "classes", "splits", "mixed", "empty", "text"])
def test_a_layout_of_folders_is_read_or_named(layout, split, tmp_path, vit, processor):
    for name in {
        "flat": ["a.png", "b.png"],
        "classes": ["0/a.png", "1/a.png"],
        "splits": ["train/0/a.png", "train/1/a.png", "test/0/a.png", "test/1/a.png"],
        "mixed": ["train/a.png", "b.png", "cats/a.png"],
        "empty": [],
        "text": ["a.txt"],
    }[layout]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    try:
        assert len(open_images(tmp_path, vit, processor, "calibration", split=split)) in (1, 2, 4)
    except ValueError as error:
        assert str(tmp_path) in str(error) and "\n" not in str(error)
