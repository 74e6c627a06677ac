# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""CLIP: its vision tower, alone or under an image classifier, whose configuration then holds the tower's as a part."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq.architectures.base import find_module
from optimum_mixq.architectures.families.encoder import Encoder, Names, require_interpolable
from optimum_mixq.architectures.registry import register_encoder, register_family


@register_family
class CLIP(Encoder):
    model_type = "clip"
    classifiers: tuple[str, ...] = ("CLIPForImageClassification",)
    block_class = "CLIPEncoderLayer"
    stem = "embeddings.patch_embedding"
    names = Names(
        attention="self_attn",
        qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        proj="self_attn.out_proj",
        norms=("layer_norm1", "layer_norm2"),
        heads="num_heads",
    )

    def encoder_config(self, model: PreTrainedModel) -> Any:
        """Return the configuration of the vision tower: the model's, or a part of it."""
        return getattr(model.config, "vision_config", model.config)

    @torch.no_grad()
    def take_image_size(self, model: PreTrainedModel, size: tuple[int, int]) -> None:
        """Interpolate the position embeddings, as transformers does for one forward (`interpolate_pos_encoding`)."""
        embeddings: Any = model.get_submodule(find_module(model, self.stem).rpartition(".")[0])
        patch, trained = embeddings.patch_size, self.image_size(model)
        require_interpolable(trained, (patch, patch), size)
        if size[0] != size[1]:
            raise ValueError(
                f"Expected square images, since the configuration of a {type(model).__name__} has one side, found "
                f"{size[0]} x {size[1]} pixels."
            )
        count = (size[0] // patch) ** 2
        positions = embeddings.position_embedding.weight  # (class token and patches, channels)
        tokens = positions.new_empty(1, len(positions) - embeddings.num_patches + count, positions.shape[1])
        interpolated = embeddings.interpolate_pos_encoding(tokens, *size)[0].clone()
        embeddings.position_embedding = nn.Embedding.from_pretrained(interpolated, freeze=not positions.requires_grad)
        embeddings.num_patches, embeddings.num_positions = count, len(interpolated)
        embeddings.position_ids = torch.arange(len(interpolated), device=positions.device)[None]
        embeddings.image_size = self.encoder_config(model).image_size = size[0]

    def without_head(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the vision tower."""
        tower: PreTrainedModel = model.get_submodule("vision_model")
        return tower


@register_family
class CLIPVision(CLIP):
    """The tower alone, with or without its projection into the space that images share with texts."""

    model_type = "clip_vision_model"
    classifiers = ()
    backbones: tuple[str, ...] = ("CLIPVisionModel", "CLIPVisionModelWithProjection")
    embedding_words = (
        "`outputs.image_embeds` of a model with a projection, or else `outputs.pooler_output`, the class token after "
        "the last LayerNorm"
    )
    heads: tuple[str, ...] = ("visual_projection",)

    def embedding(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return what the projection puts out, or else the class token after the last LayerNorm."""
        projected = outputs.get("image_embeds")
        return outputs["pooler_output"] if projected is None else projected


register_encoder("clip", "CLIPVisionModelWithProjection")
