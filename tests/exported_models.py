# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Small packed models for tests of exports: tracing takes seconds for each block."""

import torch
from conftest import BUILDERS, PLAIN, WINDOWED, build_random, random_pixels
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    PreTrainedModel,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from optimum_mixq import BitPlan, MixQConfig
from optimum_mixq.pipeline import quantize_model


SHALLOW = PLAIN | {"num_hidden_layers": 1}
# Two stages, with a block that shifts its windows; 18 pixels give maps of 9 and 5, which are padded to windows of 2.
TWO_STAGES = WINDOWED | {"depths": [2, 1], "num_heads": [1, 2], "image_size": 18}
ALL_BUILDERS = BUILDERS | {
    "shallow_vit": lambda: ViTForImageClassification(ViTConfig(**SHALLOW)),
    "shallow_deit_with_teacher": lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**SHALLOW)),
    "shallow_swin": lambda: SwinForImageClassification(SwinConfig(**TWO_STAGES)),
}


def pack(name: str, bits: int | tuple[int, int] | str = 4, arithmetic: str = "column") -> PreTrainedModel:
    """Return a packed model; bits "mixed" gives its units widths from 2 to 8 in turn."""
    model = build_random(ALL_BUILDERS[name]).cpu()
    plan = BitPlan.uniform(model, 4 if bits == "mixed" else bits)
    if bits == "mixed":
        plan = BitPlan({unit: 2 + place % 7 for place, unit in enumerate(plan.bits)})
    config = MixQConfig(bits=4 if bits == "mixed" else bits, arithmetic=arithmetic)
    return quantize_model(model, plan, [random_pixels(model, 8).cpu()], config)


def pixels_for(model: PreTrainedModel, count: int = 8, seed: int = 5) -> torch.Tensor:
    return random_pixels(model, count, seed).cpu()
