# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""LayerNorm and the rounding after it on a GPU: one pass from hidden states to codes."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from optimum_mixq.kernels.contract import Rounding
from optimum_mixq.kernels.triton.devices import device_of


def normalize_to_codes(values: Tensor, weight: Tensor, bias: Tensor, eps: float, rounding: Rounding) -> Tensor:
    """Return the codes (..., C), uint8, of the LayerNorm of values (..., C), which is computed in float32."""
    rows = values.reshape(-1, values.shape[-1]).contiguous()
    count, columns = rows.shape
    codes = torch.empty((count, columns), dtype=torch.uint8, device=values.device)
    if count:
        block = triton.next_power_of_2(columns)
        with device_of(rows):
            _normalize_row[(count,)](
                rows,
                weight,
                bias,
                rounding.multiplier,
                rounding.offset,
                codes,
                columns,
                eps,
                LARGEST_CODE=rounding.largest_code,
                COLUMNS=block,
                num_warps=min(max(block // 256, 1), 8),
            )
    return codes.view(values.shape)


@triton.jit
def _normalize_row(
    rows, weight, bias, multiplier, offset, codes, columns, eps,
    LARGEST_CODE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the codes of one row, which stays in registers from the mean to the code."""
    start, column = tl.program_id(0).to(tl.int64) * columns, tl.arange(0, COLUMNS)
    inside = column < columns
    row = tl.load(rows + start + column, mask=inside, other=0.0).to(tl.float32)
    centered = tl.where(inside, row - tl.sum(row) / columns, 0.0)
    share = tl.rsqrt(tl.sum(centered * centered) / columns + eps)
    own = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    values = centered * share * own + tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    steps = values * tl.load(multiplier + column, mask=inside, other=0.0)
    steps += tl.load(offset + column, mask=inside, other=0.0)
    # Conversion truncates, which is the floor of what is not negative.
    rounded = tl.minimum(tl.maximum(steps, 0.0), LARGEST_CODE).to(tl.uint8)
    tl.store(codes + start + column, rounded, mask=inside)
