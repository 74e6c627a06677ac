# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Powers of a base that is chosen for each attention, as AdaLog has them (arXiv 2407.12951, section 3.2)."""

from optimum_mixq.quant.softmax_grids.base import register_softmax_grid
from optimum_mixq.quant.softmax_grids.logarithmic import LogGrid


# AdaLog's r: bases are powers of 2^(1 / r), so that a table of r entries and a shift of bits make any power.
PARTS = 37
# Candidates for q, an eighth apart or less where whole numbers allow it, up to a base of 4.
NUMERATORS = (
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 24, 26, 28, 31, 34, 37, 41, 46, 51, 57, 64, 74,
)  # fmt: skip
# Octaves that a grid must reach at least, and at most: below 2^-24 a weight is nothing.
LEAST_REACH, LARGEST_REACH = 1, 24


@register_softmax_grid
class AdaptiveLog(LogGrid):
    """The base is 2^(q / 37), q the setting: 37 / q steps per octave.

    # Unlike the paper: the powers themselves are multiplied, not a table of them that is rounded to 2 b bits.
    """

    name = "adaptive-log"

    @classmethod
    def settings(cls, bits: int) -> tuple[int, ...]:
        codes = PARTS / (2**bits - 2)  # the numerator whose grid reaches one octave
        return tuple(each for each in NUMERATORS if LEAST_REACH * codes <= each <= LARGEST_REACH * codes)

    @property
    def steps(self) -> float:
        return PARTS / self.setting
