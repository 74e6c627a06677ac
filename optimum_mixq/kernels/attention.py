# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What a kernel of attention is given, and what it has to answer."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from optimum_mixq.kernels.handles import give_handle


@dataclass(frozen=True)
class AttentionGrids:
    """Grids of query, key and value, in this order, and bits of the logarithmic grid.

    Operands (B, heads, T, D) become integers a = clamp(floor(x / scale + zero_point + 1/2), 0, 2^bits - 1) -
    zero_point. Row i of the output is

    o_i = value_scale * sum_j p_ij v_j / sum_j p_ij,
    p_ij = 2^(-code_ij / steps), or 0 where the code is 2^av_bits - 1 or more,
    code_ij = floor(steps * (max_j s_ij - s_ij) / ln 2 + 1/2),
    s_ij = scaling * sum_c query_scale_c key_scale_c q_ic k_jc + mask_ij.
    """

    scale: Tensor  # float32 (3, heads, D)
    zero_point: Tensor  # float32 (3, heads, D)
    qk_bits: int  # of query and key
    av_bits: int  # of the logarithmic grid and the value
    steps: float  # of the logarithmic grid, to each octave


class AttentionKernel(ABC):
    """One way to compute attention on grids in one pass, without scores in memory: prepared once per module."""

    def __init__(self, grids: AttentionGrids) -> None:
        self.grids = grids
        self.handle = give_handle(self)

    @classmethod
    @abstractmethod
    def supports(cls, device: torch.device) -> bool:
        """Tell whether the kernel runs on the device."""

    @abstractmethod
    def serves(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
        """Tell whether the kernel takes these operands; others are for torch's own operations."""

    @abstractmethod
    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dtype: torch.dtype
    ) -> Tensor:
        """Return the output (B, T, heads, D) of operands (B, heads, T, D), whose integers multiply in `dtype`.

        `mask` broadcasts to (B, heads, T, T); the output has the query's dtype.
        """

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dtype: torch.dtype
    ) -> Tensor:
        """Return what `attend` does, also in graphs that torch compiles."""
        if torch.compiler.is_compiling():
            return torch.ops.mixq.attention(query, key, value, mask, self.handle, scaling, dtype)
        return self.attend(query, key, value, mask, scaling, dtype)

    def __reduce__(self) -> tuple[type["AttentionKernel"], tuple[AttentionGrids]]:
        # A copy gets a number of its own.
        return type(self), (self.grids,)
