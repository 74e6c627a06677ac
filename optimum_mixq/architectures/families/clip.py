# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""CLIP: an image classifier on its vision tower, whose configuration is a part of the model's."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from optimum_mixq.architectures.base import find_module
from optimum_mixq.architectures.families.encoder import Encoder, Names, require_interpolable
from optimum_mixq.architectures.registry import register_family


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

    def channels(self, model: PreTrainedModel) -> int:
        return int(model.config.vision_config.num_channels)

    def image_size(self, model: PreTrainedModel) -> tuple[int, int]:
        return (model.config.vision_config.image_size,) * 2  # transformers 5.9 to 5.23 take one number

    @torch.no_grad()
    def take_image_size(self, model: PreTrainedModel, size: tuple[int, int]) -> None:
        """Interpolate the position embeddings, as transformers does for one forward (`interpolate_pos_encoding`)."""
        embeddings: Any = model.get_submodule(find_module(model, ".embeddings"))
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
        embeddings.image_size = model.config.vision_config.image_size = size[0]
