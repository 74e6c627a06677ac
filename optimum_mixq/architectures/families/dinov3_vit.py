# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""DINOv3: queries and keys of patches are rotated by position, and the output of each branch is scaled (LayerScale).

A rotation is linear in what it rotates, so relevance passes it by the general rules for factors and sums.
"""

from dataclasses import replace

from transformers import PreTrainedModel

from optimum_mixq.architectures.families.encoder import Encoder, Names
from optimum_mixq.architectures.registry import register_family


PLAIN = Names(
    fc1=("mlp.up_proj",),
    fc2="mlp.down_proj",
    activation="mlp.act_fn",
    norms=("norm1", "norm2"),
    heads="num_heads",
    passing=("layer_scale1", "layer_scale2"),
    plain_sums=False,
    plain_scores=False,
)
GATED = replace(PLAIN, fc1=("mlp.gate_proj", "mlp.up_proj"))


@register_family
class DINOv3(Encoder):
    model_type = "dinov3_vit"
    classifiers = ()  # transformers 5.23 has none
    backbones = ("DINOv3ViTModel",)
    embedding_words = "`outputs.pooler_output`, the class token after the last LayerNorm"
    block_class = "DINOv3ViTLayer"
    stem = "embeddings.patch_embeddings"
    heads = ()

    def names_in(self, model: PreTrainedModel) -> Names:
        return GATED if model.config.use_gated_mlp else PLAIN

    def takes_any_size(self, model: PreTrainedModel) -> bool:
        return True  # positions are computed in each forward
