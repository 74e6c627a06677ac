# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""MAE: its own class hides patches at random and shuffles the others; a ViT has the same tensors, and does neither."""

from optimum_mixq.architectures.registry import refuse_type, register_encoder


register_encoder("vit_mae", "ViTModel")
refuse_type(
    "vit_mae",
    "it hides patches at random, and returns the others in random order. Load the checkpoint with ViTModel, which has "
    "the same encoder and sees all patches.",
)
