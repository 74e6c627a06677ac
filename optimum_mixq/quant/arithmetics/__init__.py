# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""How layers combine weights with the scales of their inputs: one file for each arithmetic.

`arithmetic_of(name)` returns one; `register_arithmetic` adds another.
"""

from optimum_mixq.quant.arithmetics.base import (
    ARITHMETICS,
    Arithmetic,
    arithmetic_names,
    arithmetic_of,
    register_arithmetic,
)
from optimum_mixq.quant.arithmetics.column import ColumnArithmetic
from optimum_mixq.quant.arithmetics.folded import FoldedArithmetic


__all__ = [
    "ARITHMETICS",
    "Arithmetic",
    "ColumnArithmetic",
    "FoldedArithmetic",
    "arithmetic_names",
    "arithmetic_of",
    "register_arithmetic",
]
