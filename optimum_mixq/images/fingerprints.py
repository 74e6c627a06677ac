# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Digests of what a measurement depends on, so that a saved one is reused where it fits and refused where not."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.images.batches import Batch


logger = logging.getLogger(__name__)

_WORDS = {
    "weights": "weights of the model",
    "images": "images (data set, split, number or seed)",
    "settings": "settings",
}


def fits(
    what: str,
    found: Mapping[str, str],
    expected: Mapping[str, str],
    find_lack: Callable[[], str | None] = lambda: None,
) -> bool:
    """Return whether a known measurement may be used again; where it may not, say why.

    `find_lack` is asked where the fingerprint is the expected one, and returns what is wrong even so.
    """
    different = [words for name, words in _WORDS.items() if found.get(name) != expected.get(name)]
    told = f"was measured with other {', '.join(different)}" if different else find_lack()
    if told is not None:
        logger.warning("The %s that is known %s: it is measured again.", what, told)
    return told is None


def fingerprint_inputs(
    model: PreTrainedModel, batches: Sequence[Batch], settings: Mapping[str, Any]
) -> dict[str, str]:
    """Return digests of the weights, of the images with their labels, and of the settings."""
    return {**digest_inputs(model, batches), "settings": _digest(settings)}


def digest_inputs(model: PreTrainedModel, batches: Sequence[Batch]) -> dict[str, str]:
    """Return digests of the weights, and of the images with their labels."""
    weights, images = hashlib.sha256(), hashlib.sha256()
    for name, tensor in model.state_dict().items():
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    for batch in batches:
        labels = [b"None"] * len(batch) if batch.labels is None else map(_label_bytes, batch.labels)
        for pixels, label in zip(batch.pixel_values, labels, strict=True):  # however they are batched
            images.update(pixels.contiguous().numpy().tobytes())
            images.update(label)
    return {"weights": weights.hexdigest()[:16], "images": images.hexdigest()[:16]}


def digest_settings(*groups: Any, further: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return the digest of groups of options (frozen dataclasses): of all of them, so that none can be forgotten.

    `further` holds settings that are no options.
    """
    options = {name: value for group in groups for name, value in asdict(group).items()}
    return {"settings": _digest({**options, **(further or {})})}


def short_digest(marks: Mapping[str, str]) -> str:
    """Return one short name for a whole fingerprint."""
    return hashlib.sha256(repr(sorted(marks.items())).encode()).hexdigest()[:12]


def _label_bytes(label: Tensor) -> bytes:
    """Return the number of a label, in digits, or the bytes of one of any shape: a map takes long to write out."""
    return str(label.item()).encode() if label.ndim == 0 else label.contiguous().numpy().tobytes()


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:16]
