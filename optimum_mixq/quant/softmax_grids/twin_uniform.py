# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Equal steps in two ranges, fine ones next to zero, as PTQ4ViT has them (arXiv 2111.12293, section 3.2)."""

import torch
from torch import Tensor

from optimum_mixq.quant.softmax_grids.base import SoftmaxGrid, register_softmax_grid


@register_softmax_grid
class TwinUniform(SoftmaxGrid):
    """One bit chooses the range, and bits - 1 are the code in it. With h = 2^(bits - 1) and m the setting:

        fine    2^-m code / h       coarse    (code + 1) / h       code in 0..h - 1

    # Unlike the paper: coarse codes start at the first step, not at zero, which the fine ones have already. So one is
    # on the grid.
    """

    name = "twin-uniform"

    @classmethod
    def settings(cls, bits: int) -> tuple[int, ...]:
        return tuple(range(1, 13))

    def round_(self, scores: Tensor) -> Tensor:
        return self._round(scores.sub_(scores.amax(-1, keepdim=True)).exp_())

    def round(self, scores: Tensor) -> Tensor:
        return self._round(torch.exp(scores - scores.amax(-1, keepdim=True)))

    def _round(self, exact: Tensor) -> Tensor:
        half = 2 ** (self.bits - 1)
        steps = half * 2**self.setting  # fine steps between zero and one
        above = (half - 1) // 2**self.setting + 1  # the least coarse value above all fine ones, times h
        edge = ((half - 1) / steps + above / half) / 2
        fine = (exact * steps + 0.5).floor().clamp(max=half - 1.0) * (1 / steps)
        coarse = (exact * half + 0.5).floor() * (1 / half)
        return torch.where(exact < edge, fine, coarse)
