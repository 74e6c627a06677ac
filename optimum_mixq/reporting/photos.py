# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Images and heat maps as data addresses, so that a page needs no other file."""

import base64
import io

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


LARGEST_PNG = 64  # pixels; of larger images a JPEG takes less
LARGEST_SIDE = 256


def draw_photo(pixels: Tensor) -> str:
    """Return an image (C, H, W), as a model takes it, as a data address."""
    return _encode(_as_picture(pixels))


def draw_heat(pixels: Tensor, relevance: Tensor) -> str:
    """Return as a data address an image (C, H, W), and beside it its relevance (H, W): red for, blue against."""
    picture = _as_picture(pixels)
    strength = F.avg_pool2d(relevance[None, None].float(), 3, 1, 1)[0, 0]
    strength = strength / strength.abs().quantile(0.99).clamp(min=1e-30)
    positive, negative = strength.clamp(0, 1), (-strength).clamp(0, 1)
    pale = 0.35 + 0.65 * picture.mean(0)
    heat = torch.stack([pale * (1 - negative), pale * (1 - positive - negative).clamp(min=0), pale * (1 - positive)])
    return _encode(torch.cat([picture, heat], -1))  # (3, H, 2 W)


def _as_picture(pixels: Tensor) -> Tensor:
    """Return an image (C, H, W) as (3, H, W) from 0 to 1: what is normalized has no range of its own."""
    picture = pixels.float().mean(0) if len(pixels) != 3 else pixels.float()
    low, high = picture.amin(), picture.amax()
    return ((picture - low) / (high - low).clamp(min=1e-12)).expand(3, *picture.shape[-2:])


def _encode(picture: Tensor) -> str:
    """Return (3, H, W) from 0 to 1 as a PNG where it is small, else as a JPEG."""
    image = Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).contiguous().numpy())
    small, stream = picture.shape[1] <= LARGEST_PNG, io.BytesIO()
    if small:
        image.save(stream, "PNG", optimize=True)
    else:
        shrink = min(1.0, LARGEST_SIDE / image.height)
        size = (max(1, round(image.width * shrink)), max(1, round(image.height * shrink)))
        image.resize(size, Image.Resampling.LANCZOS).save(stream, "JPEG", quality=88, optimize=True)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(stream.getvalue()).decode("ascii")
