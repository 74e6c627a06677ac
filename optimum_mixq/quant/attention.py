# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Attention with quantized operands: query, key and value on uniform grids, softmax on the log-sqrt2 grid."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optimum_mixq.quant.grids import UniformGrid, fake_quantize
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
    ) -> Tensor:
        """Return the output (B, T, heads, head size) of operands (B, heads, T, head size).

        `mask` is added to the scaled scores.
        """
        if self.qk_bits is not None:
            query = self._round("query", query, self.qk_bits)
            key = self._round("key", key, self.qk_bits)
        if self.av_bits is not None:
            value = self._round("value", value, self.av_bits)
        scores = torch.matmul(query * scaling, key.transpose(-1, -2))  # (B, heads, T, T)
        if mask is not None:
            scores = scores + mask
        if self.av_bits is None:
            powers = torch.exp(scores - scores.amax(-1, keepdim=True))
        else:
            powers = log_grid_powers(scores, self.av_bits)
        total = powers.sum(-1, keepdim=True)  # (B, heads, T, 1)
        powers = F.dropout(powers, dropout, self.training)
        return (torch.matmul(powers, value) / total).transpose(1, 2).contiguous()

    def _round(self, name: str, operand: Tensor, bits: int) -> Tensor:
        grid = self.grid(name, bits)
        if operand.requires_grad:
            return fake_quantize(operand, grid)
        # The same values in place: of everything around the matmuls, passes over memory cost most.
        codes = torch.addcmul(grid.zero_point + 0.5, operand.float(), 1 / grid.scale)
        codes = codes.floor_().clamp_(0, grid.largest_code).sub_(grid.zero_point)
        return codes.mul_(grid.scale).to(operand.dtype)


def quantized_softmax(scores: Tensor, bits: int) -> Tensor:
    """Return softmax(scores) (..., T) with exp(score - row maximum) on the log-sqrt2 grid, rows summing to one.

    >>> quantized_softmax(torch.tensor([0.0, -math.log(2), -20.0]), bits=3).tolist()  # 1, 1/2, below the grid
    [0.6666666865348816, 0.3333333432674408, 0.0]
    """
    powers = log_grid_powers(scores, bits)
    return powers / powers.sum(-1, keepdim=True)


def log_grid_powers(scores: Tensor, bits: int) -> Tensor:
    """Return exp(score - row maximum) (..., T) on the log-sqrt2 grid.

    log2 exp(d) = d / ln 2, so the code of an element is round(2 (maximum - score) / ln 2): no logarithm is taken.

    # Unlike the paper: the grid is applied before the division by the row's sum, not after it. So the largest weight
    # of each row is exact, no scale has to be calibrated, and the rows still sum to one.
    """
    largest = scores.detach().amax(-1, keepdim=True)
    # minus the code: -floor(x + 1/2) = ceil(-x - 1/2)
    exponents = ((scores.detach() - largest) * (2 / math.log(2))).sub_(0.5).ceil_()
    powers = torch.threshold_(
        exponents.mul_(0.5).exp2_(), 2 ** (-(2**bits - 1.5) / 2), 0.0
    )  # below the last but one code
    if not scores.requires_grad:
        return powers
    smooth = torch.exp(scores - largest)
    return smooth + (powers - smooth).detach()
