# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""ViT-MSN: a ViT that was trained on masked images."""

from optimum_mixq.architectures.families.vit import ViT
from optimum_mixq.architectures.registry import register_family


@register_family
class ViTMSN(ViT):
    model_type = "vit_msn"
    classifiers = ("ViTMSNForImageClassification",)
    backbones = ("ViTMSNModel",)
    optional = ()  # it has no pooler
    block_class = "ViTMSNLayer"
