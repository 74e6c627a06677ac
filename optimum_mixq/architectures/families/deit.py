# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""DeiT: a ViT with a distillation token, and with one head or two."""

from optimum_mixq.architectures.families.vit import ViT
from optimum_mixq.architectures.registry import register_family


@register_family
class DeiT(ViT):
    model_type = "deit"
    classifiers = ("DeiTForImageClassification", "DeiTForImageClassificationWithTeacher")
    backbones = ("DeiTModel",)
    block_class = "DeiTLayer"
    heads = ("classifier", "cls_classifier", "distillation_classifier", "pooler")
