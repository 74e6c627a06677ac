# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Two steps per octave, as RepQ-ViT has them (arXiv 2212.08254, section 3.3), and from 6 bits on more."""

from optimum_mixq.quant.softmax_grids.base import register_softmax_grid
from optimum_mixq.quant.softmax_grids.logarithmic import LogGrid


@register_softmax_grid
class LogSqrt2(LogGrid):
    """Neighbouring values are a factor of sqrt 2 apart, and less from 6 bits on.

    # Unlike the paper: 2^bits codes at two per octave reach below 2^-30 from 6 bits on, where nothing is left to tell
    # apart, while neighbouring values stay 41 % apart. Finer steps that reach 2^-16 spend the bits better.

    >>> [LogSqrt2(bits).steps for bits in (2, 4, 5, 6, 7, 8)]
    [2, 2, 2, 4, 8, 16]
    >>> import math, torch
    >>> LogSqrt2(bits=3).softmax(torch.tensor([0.0, -math.log(2), -20.0])).tolist()  # 1, 1/2, below the grid
    [0.6666666865348816, 0.3333333432674408, 0.0]
    """

    name = "log-sqrt2"

    @property
    def steps(self) -> float:
        return max(2, 2 ** (self.bits - 4))
