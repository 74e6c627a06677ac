# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What logarithmic grids share: the values 2^(-code / steps), and zero for the last code.

RepQ-ViT (arXiv 2212.08254, section 3.3) sets what lies below the grid to zero next to its 2^bits codes, which no b-bit
number can store; here 2^bits codes are all.
"""

import math
from abc import abstractmethod

import torch
from torch import Tensor

from optimum_mixq.quant.softmax_grids.base import SoftmaxGrid


class LogGrid(SoftmaxGrid):
    """A grid of so many steps per octave.

    log2 exp(d) = d / ln 2, so the code of an element is round(steps (maximum - score) / ln 2): no logarithm is taken.
    """

    @property
    @abstractmethod
    def steps(self) -> float:
        """Return the steps per octave."""

    @property
    def score_factor(self) -> float:
        return self.steps / math.log(2)

    def round_(self, scores: Tensor) -> Tensor:
        # minus the code: -floor(x + 1/2) = ceil(-x - 1/2)
        exponents = scores.sub_(scores.amax(-1, keepdim=True).add_(0.5)).ceil_()
        # The last code is zero: cut halfway between it and the last but one.
        return torch.threshold_(exponents.mul_(1 / self.steps).exp2_(), 2 ** (self._last / self.steps), 0.0)

    def round(self, scores: Tensor) -> Tensor:
        exponents = (scores - (scores.amax(-1, keepdim=True) + 0.5)).ceil()
        powers = torch.exp(exponents * (math.log(2) / self.steps))
        return torch.where(exponents > self._last, powers, 0.0)

    @property
    def _last(self) -> float:
        return -(2**self.bits - 1.5)
