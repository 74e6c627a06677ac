# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Three small Fashion-MNIST classifiers and 1,256 images that the package ships, to try things without a network.

The models are trained by `examples/train_demo_models.py`; Fashion-MNIST is under the MIT licence (Zalando SE, 2017).
"""

from pathlib import Path


DEMO_MODELS = ("vit", "deit", "swin")


def demo_model_path(name: str) -> Path:
    """Return the folder of a shipped model, for `from_pretrained`."""
    if name not in DEMO_MODELS:
        raise ValueError(f"Expected one of the shipped models {', '.join(DEMO_MODELS)}, found '{name}'.")
    return Path(__file__).parent / "models" / name


def demo_images_path() -> Path:
    """Return the folder of the shipped images: split "train" (256, for calibration) and "test" (1,000)."""
    return Path(__file__).parent / "images"
