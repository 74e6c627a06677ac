# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The configuration: flat for its user, in groups for the stages."""

from optimum_mixq.config.mixq import MixQConfig
from optimum_mixq.config.options import (
    FORMAT_VERSION,
    GROUPS,
    QUANT_METHOD,
    BudgetOptions,
    CalibrationOptions,
    ReconstructionOptions,
    RelevanceOptions,
    SamplingOptions,
    SavedState,
    SensitivityOptions,
)


__all__ = [
    "ATTENTION", "ATTENTION_CHILD", "FORMAT_VERSION", "GROUPS", "PIXEL_BITS", "QUANT_METHOD", "BudgetOptions",
    "CalibrationOptions", "MixQConfig", "ReconstructionOptions", "RelevanceOptions", "SamplingOptions", "SavedState",
    "SensitivityOptions",
]  # fmt: skip

# The name under which our attention function is registered, and the attention's submodule that holds its grids.
ATTENTION, ATTENTION_CHILD = "mixq", "mixq_attention"
# Of what the patch embedding reads: images have no more.
PIXEL_BITS = 8
