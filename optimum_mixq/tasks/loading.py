# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What transformers and the Hub call models with such outputs, and how one is loaded."""

from pathlib import Path
from typing import Any

from transformers import AutoModelForImageClassification, PreTrainedModel


# All tasks that there are share transformers' heads of image classifiers; `problem_type` tells them apart.
AUTO_CLASS = AutoModelForImageClassification
HUB_TASK = "image-classification"


def load_model(name_or_folder: str | Path, **options: Any) -> PreTrainedModel:
    """Return the model of a name on the Hub or of a folder; `options` are those of `from_pretrained`."""
    return AUTO_CLASS.from_pretrained(name_or_folder, **options)
