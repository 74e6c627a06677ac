# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""DINOv2: the output of each branch is scaled channel by channel (LayerScale); the largest has a gated MLP."""

from transformers import PreTrainedModel

from optimum_mixq.architectures.families.encoder import Encoder, Names
from optimum_mixq.architectures.registry import register_family


PLAIN = Names(norms=("norm1", "norm2"), passing=("layer_scale1", "layer_scale2"), plain_sums=False)
GATED = Names(
    fc1=("mlp.gate_proj", "mlp.up_proj"),
    fc2="mlp.down_proj",
    activation="mlp.act_fn",
    norms=PLAIN.norms,
    passing=PLAIN.passing,
    plain_sums=False,
)


@register_family
class Dinov2(Encoder):
    model_type = "dinov2"
    classifiers: tuple[str, ...] = ("Dinov2ForImageClassification",)
    backbones: tuple[str, ...] = ("Dinov2Model",)
    embedding_words = "`outputs.pooler_output`, the class token after the last LayerNorm"
    block_class = "Dinov2Layer"

    def names_in(self, model: PreTrainedModel) -> Names:
        return GATED if model.config.use_swiglu_ffn else PLAIN

    def takes_any_size(self, model: PreTrainedModel) -> bool:
        return True  # each forward interpolates the position embeddings


@register_family
class Dinov2WithRegisters(Dinov2):
    """A DINOv2 with further learned tokens beside the class token; its head reads them as if they were patches."""

    model_type = "dinov2_with_registers"
    classifiers = ("Dinov2WithRegistersForImageClassification",)
    backbones = ("Dinov2WithRegistersModel",)
    block_class = "Dinov2WithRegistersLayer"
