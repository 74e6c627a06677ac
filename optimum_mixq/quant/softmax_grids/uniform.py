# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Equal steps from zero to one."""

import torch
from torch import Tensor

from optimum_mixq.quant.softmax_grids.base import SoftmaxGrid, register_softmax_grid


@register_softmax_grid
class Uniform(SoftmaxGrid):
    """The values code / (2^bits - 1)."""

    name = "uniform"

    def round_(self, scores: Tensor) -> Tensor:
        exact = scores.sub_(scores.amax(-1, keepdim=True)).exp_()
        return exact.mul_(self._largest).add_(0.5).floor_().mul_(1 / self._largest)

    def round(self, scores: Tensor) -> Tensor:
        exact = torch.exp(scores - scores.amax(-1, keepdim=True))
        return (exact * self._largest + 0.5).floor() * (1 / self._largest)

    @property
    def _largest(self) -> int:
        return 2**self.bits - 1
