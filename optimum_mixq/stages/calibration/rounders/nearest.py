# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Rounding to the nearest value of the grid."""

from torch import Tensor

from optimum_mixq.quant.grids import fake_quantize
from optimum_mixq.stages.calibration.rounders.base import RoundedWeight, Rounder, register_rounder


@register_rounder
class NearestRounder(Rounder):
    """Each number gets the grid's nearest value."""

    name = "nearest"

    def round(self, weight: Tensor, bits: int, moment: Tensor) -> RoundedWeight:
        grid = self.choose_grid(weight, bits, moment)
        return RoundedWeight(fake_quantize(weight, grid), grid)
