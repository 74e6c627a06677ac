# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The time of a model of a size that people use, built with random weights so that nothing is downloaded."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from transformers import ViTConfig, ViTForImageClassification

from optimum_mixq.architectures.measuring import threads_for
from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import MixQConfig
from optimum_mixq.pipeline import quantize_model
from optimum_mixq.stages.evaluation import measure_latency


# ViT-S/16 for ImageNet.
SIZE: Mapping[str, int] = MappingProxyType(
    {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6, "num_labels": 1000}
)
TIMED_IMAGES = 4
BITS = 4
# Random weights have no accuracy to keep, so nothing is searched. What is packed runs as fast.
CONFIG = MixQConfig(
    bits=BITS,
    input_search=False,
    level=False,
    weight_search=False,
    correction=False,
    compensation=False,
    balance=False,
)


@dataclass(frozen=True)
class Speed:
    """Milliseconds per image of one model, on so many threads."""

    threads: int
    float32: float
    bfloat16: float
    packed: float


def time_random_model(size: Mapping[str, int] = SIZE) -> Speed:
    """Return the times of a ViT of random weights, on as many threads as it is fastest with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ViTForImageClassification(ViTConfig(**size)).eval()
        pixels = torch.randn(TIMED_IMAGES, 3, model.config.image_size, model.config.image_size)
    packed = quantize_model(model, BitPlan.uniform(model, BITS), [pixels[:1]], CONFIG, description="Packing")
    models = {"float32": model, "bfloat16": copy.deepcopy(model).to(torch.bfloat16), "packed": packed}
    with threads_for(model):
        return Speed(torch.get_num_threads(), **measure_latency(models, pixels))
