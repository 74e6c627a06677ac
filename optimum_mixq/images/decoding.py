# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Reads pictures as transformers' pipelines do: turned upright, in RGB, with 8 bits per channel."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor
from transformers.utils import logging


logger = logging.get_logger(__name__)
PICTURES = (Image.Image, str, Path, bytes)
# 16-bit grey values. Pillow 10 reads 16-bit PNGs as "I", later releases as "I;16".
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")


def read_picture(value: Any, name: str) -> Image.Image | Tensor:
    """Return one image of a source as an RGB picture, or as the float tensor (C, H, W) that it is.

    Args:
        value: a PIL image, an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, a file's path or content,
            what `datasets` stores of a file, or pixel values as a float tensor (C, H, W).
        name: where the image stands, for error messages.
    """
    if isinstance(value, dict) and {"bytes", "path"} & set(value):
        path, content = value.get("path"), value.get("bytes")
        name = f"{name} ({path or 'bytes in the data set'})"
        value = content if content is not None else path
    if isinstance(value, Tensor):
        return _check_pixel_values(value, name)
    if isinstance(value, (str, Path, bytes)):
        return _decode(value, name)
    if isinstance(value, Image.Image):
        return _convert(value, name)
    if isinstance(value, np.ndarray):
        return _picture_of_array(value, name)
    raise ValueError(
        f"Expected a picture in {name}, found {type(value).__name__}. Pass PIL images, file paths, uint8 arrays "
        "(height, width, 3) or float tensors (channels, height, width)."
    )


def _decode(file: str | Path | bytes, name: str) -> Image.Image:
    try:
        # Read here: Pillow 12 leaves a file open that it could not decode.
        content = file if isinstance(file, bytes) else Path(file).read_bytes()
        with warnings.catch_warnings():
            # Pillow's warning of large pictures does not say which one; ours does.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(content))
            if Image.MAX_IMAGE_PIXELS is not None and picture.width * picture.height > Image.MAX_IMAGE_PIXELS:
                logger.warning(f"The picture in {name} has {picture.width} x {picture.height} pixels.")
            picture.load()
    # Decoders raise whatever a broken file leads them to: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        raise ValueError(f"Cannot read the image in {name}: {error}. Remove or replace that file.") from error
    return _convert(picture, name)


def _convert(picture: Image.Image, name: str) -> Image.Image:
    try:
        picture = ImageOps.exif_transpose(picture)
        if picture.mode in _SIXTEEN_BIT_MODES:
            return _scale_to_bytes(np.asarray(picture), name)
        if picture.mode == "F":
            raise ValueError("its pixels are floating-point numbers of unknown range; convert it to 8 bits first")
        if picture.mode == "P" and "transparency" in picture.info:
            picture = picture.convert("RGBA")  # Pillow warns of the direct way
        return picture.convert("RGB")
    except Exception as error:  # a PIL image may be opened and not yet read
        raise ValueError(f"Cannot read the image in {name}: {error}. Remove or replace it.") from error


def _scale_to_bytes(values: np.ndarray, name: str) -> Image.Image:
    """Return a grey picture of 16-bit values (H, W). Pillow's own conversion cuts all above 255 off."""
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"expected 16-bit values, found {values.min()}..{values.max()}")
    logger.warning_once("Pictures with 16 bits per pixel are scaled to 8 bits: 65535 becomes 255.")
    scaled = np.round(values.astype(np.float32) * (255 / 65535)).astype(np.uint8)
    return Image.fromarray(scaled).convert("RGB")


def _picture_of_array(array: np.ndarray, name: str) -> Image.Image:
    channels_last = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if array.dtype != np.uint8 or not channels_last or 0 in array.shape:
        raise ValueError(
            f"Expected a uint8 array (height, width, 3) in {name}, found {array.dtype} {array.shape}. "
            "Pass preprocessed images as float tensors (channels, height, width)."
        )
    return _convert(Image.fromarray(array[:, :, 0] if array.shape[2:] == (1,) else array), name)


def _check_pixel_values(pixels: Tensor, name: str) -> Tensor:
    if pixels.ndim != 3 or not pixels.is_floating_point() or 0 in pixels.shape:
        raise ValueError(
            f"Expected pixel values as a float tensor (channels, height, width) in {name}, found {pixels.dtype} "
            f"{tuple(pixels.shape)}. Pass PIL images or uint8 arrays (height, width, 3) to have them preprocessed."
        )
    return pixels.detach().float()
