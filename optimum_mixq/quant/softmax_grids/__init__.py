# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What exp(score - row maximum) is rounded to in attention: one file for each kind of grid.

`softmax_grid_of(name)` returns one; `register_softmax_grid` adds another.
"""

from optimum_mixq.quant.softmax_grids.adaptive_log import AdaptiveLog
from optimum_mixq.quant.softmax_grids.base import (
    SOFTMAX_GRIDS,
    SoftmaxGrid,
    register_softmax_grid,
    softmax_grid_names,
    softmax_grid_of,
)
from optimum_mixq.quant.softmax_grids.log2 import Log2
from optimum_mixq.quant.softmax_grids.log_sqrt2 import LogSqrt2
from optimum_mixq.quant.softmax_grids.stored import StoredSoftmaxGrid
from optimum_mixq.quant.softmax_grids.twin_uniform import TwinUniform
from optimum_mixq.quant.softmax_grids.uniform import Uniform


DEFAULT_SOFTMAX = LogSqrt2.name

__all__ = [
    "DEFAULT_SOFTMAX", "SOFTMAX_GRIDS", "AdaptiveLog", "Log2", "LogSqrt2", "SoftmaxGrid", "StoredSoftmaxGrid",
    "TwinUniform", "Uniform", "register_softmax_grid", "softmax_grid_names", "softmax_grid_of",
]  # fmt: skip
