# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""I-JEPA: a ViT without a class token, whose head reads the mean of all patches."""

from optimum_mixq.architectures.families.vit import ViT
from optimum_mixq.architectures.registry import register_family


@register_family
class IJepa(ViT):
    model_type = "ijepa"
    classifiers = ("IJepaForImageClassification",)
    block_class = "IJepaLayer"
