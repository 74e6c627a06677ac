# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Vision transformers for videos: refused, since no single image goes into them."""

from optimum_mixq.architectures.registry import refuse_type


for model_type in ("timesformer", "videomae", "vivit", "vjepa2"):
    refuse_type(
        model_type,
        "it takes videos, several frames (B, frames, C, H, W) at once, and calibration, evaluation and export read "
        "single images (B, C, H, W). Use a model for images, and classify frames one by one.",
    )
