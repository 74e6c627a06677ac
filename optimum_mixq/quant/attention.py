# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Attention with quantized operands: query, key and value on uniform grids, softmax on the log-sqrt2 grid."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optimum_mixq.quant.grids import UniformGrid, dequantize_log, fake_quantize
from optimum_mixq.quant.packing import int16_to_scale, scale_to_int16


class AttentionQuantizer(nn.Module):
    """Attention whose operands are rounded to their grids; bits of None leave a matmul as it is.

    Scales are float16 kept as int16 bits, since `.to(dtype)` and checkpoint loaders cast floating buffers.
    """

    def __init__(
        self,
        heads: int,
        head_size: int,
        qk_bits: int | None,
        av_bits: int | None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.qk_bits, self.av_bits = qk_bits, av_bits
        for name in ("query", "key", "value"):
            shape = (heads, head_size)
            self.register_buffer(f"mixq_{name}_scale", torch.zeros(shape, dtype=torch.int16, device=device))
            self.register_buffer(f"mixq_{name}_zero_point", torch.zeros(shape, dtype=torch.int16, device=device))

    def set_grid(self, name: str, grid: UniformGrid) -> None:
        """Take the grid (heads, head size) of "query", "key" or "value"."""
        getattr(self, f"mixq_{name}_scale").copy_(scale_to_int16(grid.scale))
        getattr(self, f"mixq_{name}_zero_point").copy_(grid.zero_point)

    def grid(self, name: str, bits: int) -> UniformGrid:
        """Return the grid of an operand, to broadcast against (B, heads, T, head size)."""
        scale = int16_to_scale(getattr(self, f"mixq_{name}_scale")).unsqueeze(1)
        return UniformGrid(scale, getattr(self, f"mixq_{name}_zero_point").float().unsqueeze(1), bits)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dropout: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Return the output (B, T, heads, head size) and the quantized attention (B, heads, T, T).

        Operands are (B, heads, T, head size); `mask` is added to the scaled scores.
        """
        if self.qk_bits is not None:
            query = fake_quantize(query, self.grid("query", self.qk_bits))
            key = fake_quantize(key, self.grid("key", self.qk_bits))
        scores = torch.matmul(query, key.transpose(-1, -2)) * scaling  # (B, heads, T, T)
        if mask is not None:
            scores = scores + mask
        if self.av_bits is None:
            weights = scores.softmax(-1)
        else:
            value = fake_quantize(value, self.grid("value", self.av_bits))
            weights = quantized_softmax(scores, self.av_bits)
        weights = F.dropout(weights.to(value.dtype), dropout, self.training)
        return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def quantized_softmax(scores: Tensor, bits: int) -> Tensor:
    """Return softmax(scores) (..., T) with exp(score - row maximum) on the log-sqrt2 grid, rows summing to one.

    log2 exp(d) = d / ln 2, so the code of an element is round(2 (maximum - score) / ln 2): no logarithm is taken.

    # Unlike the paper: the grid is applied before the division by the row's sum, not after it. So the largest weight
    # of each row is exact, no scale has to be calibrated, and the rows still sum to one.

    >>> quantized_softmax(torch.tensor([0.0, -math.log(2), -20.0]), bits=3).tolist()  # 1, 1/2, below the grid
    [0.6666666865348816, 0.3333333432674408, 0.0]
    """
    distance = scores.detach().amax(-1, keepdim=True) - scores
    codes = torch.floor(distance.detach().float() * (2 / math.log(2)) + 0.5)
    powers = dequantize_log(codes.clamp(max=2**bits - 1), bits)
    if scores.requires_grad:
        smooth = torch.exp(-distance.float())
        powers = smooth + (powers - smooth).detach()
    return powers / powers.sum(-1, keepdim=True)
