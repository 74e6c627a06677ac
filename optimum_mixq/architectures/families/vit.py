# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""ViT, with position embeddings for one image size."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq.architectures.base import find_module
from optimum_mixq.architectures.families.encoder import Encoder, pair, require_interpolable
from optimum_mixq.architectures.registry import register_family


@register_family
class ViT(Encoder):
    model_type = "vit"
    classifiers: tuple[str, ...] = ("ViTForImageClassification",)
    backbones: tuple[str, ...] = ("ViTModel",)
    embedding_words = "`outputs.last_hidden_state[:, 0]`, the class token after the last LayerNorm"
    optional: tuple[str, ...] = ("pooler",)
    block_class = "ViTLayer"
    heads: tuple[str, ...] = ("classifier", "pooler")

    def embedding(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return the class token after the last LayerNorm.

        The pooler behind it is random in most models: checkpoints of DINO and of classifiers have none, but the class
        builds one, and saves it.
        """
        return outputs["last_hidden_state"][:, 0]

    @torch.no_grad()
    def take_image_size(self, model: PreTrainedModel, size: tuple[int, int]) -> None:
        """Interpolate the position embeddings, as transformers does for one forward (`interpolate_pos_encoding`)."""
        embeddings: Any = model.get_submodule(find_module(model, self.stem).removesuffix(f".{self.stem}"))
        patches = embeddings.patch_embeddings
        height, width = pair(patches.patch_size)
        require_interpolable(self.image_size(model), (height, width), size)
        count = (size[0] // height) * (size[1] // width)
        positions = embeddings.position_embeddings  # (1, class tokens and patches, channels)
        tokens = positions.new_empty(1, positions.shape[1] - patches.num_patches + count, positions.shape[2])
        interpolated = embeddings.interpolate_pos_encoding(tokens, *size).clone()
        embeddings.position_embeddings = nn.Parameter(interpolated, positions.requires_grad)
        patches.num_patches, patches.image_size, embeddings.image_size = count, size, size
        model.config.image_size = size[0] if size[0] == size[1] else size
