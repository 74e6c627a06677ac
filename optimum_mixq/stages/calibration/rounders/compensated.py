# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Rounding column by column, later columns making up for earlier ones."""

from collections.abc import Sequence

from torch import Tensor

from optimum_mixq.stages.calibration.rounders.base import RoundedWeight, Rounder, register_rounder
from optimum_mixq.stages.calibration.rounding import round_compensated


@register_rounder
class CompensatedRounder(Rounder):
    """Column by column; later columns compensate for the errors of earlier ones."""

    name = "compensated"

    def round(self, weight: Tensor, bits: int, moment: Tensor) -> RoundedWeight:
        return self.round_to_each(weight, [bits], moment)[0]

    def round_to_each(self, weight: Tensor, widths: Sequence[int], moment: Tensor) -> list[RoundedWeight]:
        grids = [self.choose_grid(weight, bits, moment) for bits in widths]
        return list(map(RoundedWeight, round_compensated(weight, grids, moment), grids))
