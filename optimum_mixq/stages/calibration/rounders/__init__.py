# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""How a weight is rounded: one file for each way.

`rounder_of(options)` returns what a configuration asks for; `register_rounder` adds another one.
"""

from optimum_mixq.stages.calibration.rounders.base import (
    ROUNDERS,
    RoundedWeight,
    Rounder,
    register_rounder,
    rounder_names,
    rounder_of,
)
from optimum_mixq.stages.calibration.rounders.compensated import CompensatedRounder
from optimum_mixq.stages.calibration.rounders.nearest import NearestRounder


__all__ = [
    "ROUNDERS",
    "CompensatedRounder",
    "NearestRounder",
    "RoundedWeight",
    "Rounder",
    "register_rounder",
    "rounder_names",
    "rounder_of",
]
