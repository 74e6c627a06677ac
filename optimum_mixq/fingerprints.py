# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Digests of what a measurement depends on, so that a saved one is reused where it fits and refused where not."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from optimum_mixq.data import Batch


def fingerprint_inputs(
    model: PreTrainedModel, batches: Sequence[Batch], settings: Mapping[str, Any]
) -> dict[str, str]:
    """Return digests of the weights, of the images with their labels, and of the settings."""
    weights, images = hashlib.sha256(), hashlib.sha256()
    for name, tensor in model.state_dict().items():
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    for batch in batches:
        images.update(batch.pixel_values.contiguous().numpy().tobytes())
        images.update(str(None if batch.labels is None else batch.labels.tolist()).encode())
    return {
        "weights": weights.hexdigest()[:16],
        "images": images.hexdigest()[:16],
        "settings": hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:16],
    }
