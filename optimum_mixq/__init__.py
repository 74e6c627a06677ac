# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Mixed-precision quantization for Vision Transformers, as a Hugging Face Optimum plugin."""

from optimum_mixq.architectures import Architecture, describe
from optimum_mixq.data import Batch, Images, draw_rows, open_images
from optimum_mixq.demo import DEMO_MODELS, demo_images_path, demo_model_path


__all__ = [
    "DEMO_MODELS",
    "Architecture",
    "Batch",
    "Images",
    "demo_images_path",
    "demo_model_path",
    "describe",
    "draw_rows",
    "open_images",
]
