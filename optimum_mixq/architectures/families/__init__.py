# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""One file for each family of models: the only place that names their modules. Importing it registers them."""

from optimum_mixq.architectures.families import (
    beit,
    clip,
    deit,
    depth_anything,
    dinov2,
    dinov3_vit,
    dpt,
    ijepa,
    segformer,
    siglip,
    siglip2,
    swin,
    swinv2,
    upernet,
    videos,
    vit,
    vit_mae,
    vit_msn,
    yolos,
)


__all__ = [
    "beit", "clip", "deit", "depth_anything", "dinov2", "dinov3_vit", "dpt", "ijepa", "segformer", "siglip", "siglip2",
    "swin", "swinv2", "upernet", "videos", "vit", "vit_mae", "vit_msn", "yolos",
]  # fmt: skip
