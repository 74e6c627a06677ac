# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The size of a model's file, before it is written: what budgets limit, and what is printed, reported and carded."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion


def saved_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of the `model.safetensors` that `save_pretrained` writes."""
    return file_bytes(model, model.state_dict())


def megabytes_of(folder: Path) -> float:
    """Return the size of a saved model's files of tensors, in 10^6 bytes."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e6


def file_bytes(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> int:
    """Return the bytes of the file that holds these tensors, by their names in memory; they may be on meta.

    transformers 5.9 to 5.23 save under the names of older releases, and a file names each of its tensors.
    """
    saved = revert_weight_conversion(model, dict(tensors))
    return _header_bytes(saved) + sum(tensor.nbytes for tensor in saved.values())


def _header_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the length of the header that safetensors 0.8 writes: wide types first, each type by name."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].itemsize, name)):
        tensor = tensors[name]
        end = start + tensor.nbytes
        header[name] = {"dtype": _dtype_name(tensor.dtype), "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    length = len(json.dumps(header, separators=(",", ":")).encode())
    return 8 + length + -length % 8


def _dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a type in the file.

    >>> _dtype_name(torch.float32), _dtype_name(torch.bfloat16), _dtype_name(torch.uint8), _dtype_name(torch.int16)
    ('F32', 'BF16', 'U8', 'I16')
    """
    if dtype in (torch.bool, torch.bfloat16):
        return {torch.bool: "BOOL", torch.bfloat16: "BF16"}[dtype]
    letter = "F" if dtype.is_floating_point else "I" if dtype.is_signed else "U"
    return f"{letter}{8 * dtype.itemsize}"
