# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Rounding column by column, later columns making up for earlier ones."""

from torch import Tensor

from optimum_mixq.stages.calibration.rounders.base import RoundedWeight, Rounder, register_rounder
from optimum_mixq.stages.calibration.rounding import round_compensated


@register_rounder
class CompensatedRounder(Rounder):
    """Column by column; later columns compensate for the errors of earlier ones."""

    name = "compensated"

    def round(self, weight: Tensor, bits: int, moment: Tensor) -> RoundedWeight:
        grid = self.choose_grid(weight, bits, moment)
        return RoundedWeight(round_compensated(weight, grid, moment), grid)
