# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Where bfloat16 multiplies matrices faster than float32."""

import torch
from torch import Tensor


def fast_products(values: Tensor) -> torch.autocast:
    """Run products in bfloat16 for float32 values that lie where that is faster; they change by 0.4 % or so."""
    return torch.autocast(values.device.type, torch.bfloat16, dtype_of_products(values) != values.dtype)


def dtype_of_products(values: Tensor) -> torch.dtype:
    """Return bfloat16 for float32 values that lie where its products are faster, else the values' own."""
    return torch.bfloat16 if values.dtype == torch.float32 and _has_bfloat16(values.device) else values.dtype


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cpu":
        # Without these instructions oneDNN converts to float32 first. torch 2.6 to 2.13 tell in private functions.
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, name, bool)() for name in names)
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
