# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""START HERE: the method, one call per stage."""

from collections.abc import Sequence

from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import MixQConfig
from optimum_mixq.hub import attach
from optimum_mixq.stages.calibration import calibrate
from optimum_mixq.stages.conversion import pack


def quantize_model(
    model: PreTrainedModel, plan: BitPlan, pixel_batches: Sequence[Tensor], config: MixQConfig
) -> PreTrainedModel:
    """Return a packed copy of `model` with the bits of `plan`, ready to run, save and share."""
    prepared = calibrate(model, plan, pixel_batches, config)  # 4: ranges, reparameterisation, rounding
    packed = pack(prepared)  # 5: integer codes
    return attach(packed, plan, config)
