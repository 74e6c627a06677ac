# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Small models of Fashion-MNIST and 1,256 of its images that the package ships, to try things without a network.

Three classifiers are trained by `examples/train_demo_models.py`, and a SegFormer, which tells what is where in scenes
of such images, by `examples/train_scene_models.py`. Fashion-MNIST is under the MIT licence (Zalando SE, 2017).
"""

from pathlib import Path


DEMO_MODELS = ("vit", "deit", "swin")
SCENE_MODELS = ("segformer",)


def demo_model_path(name: str) -> Path:
    """Return the folder of a shipped model, for `from_pretrained`."""
    shipped = DEMO_MODELS + SCENE_MODELS
    if name not in shipped:
        raise ValueError(f"Expected one of the shipped models {', '.join(shipped)}, found '{name}'.")
    return Path(__file__).parent / "models" / name


def demo_images_path() -> Path:
    """Return the folder of the shipped images: split "train" (256, for calibration) and "test" (1,000)."""
    return Path(__file__).parent / "images"
