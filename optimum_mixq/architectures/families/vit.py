# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""ViT, and the block that transformers 5.9 to 5.23 write alike for ViT, DeiT and Swin."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq.architectures.base import (
    Activation,
    Architecture,
    Block,
    Family,
    NormReaders,
    Residual,
    Unit,
    chain_of,
    find_module,
    linear_layers_of,
)
from optimum_mixq.architectures.registry import register_family


STEM = "patch_embeddings.projection"


@register_family
class ViT(Family):
    model_type = "vit"
    classifiers: tuple[str, ...] = ("ViTForImageClassification",)
    backbones: tuple[str, ...] = ("ViTModel",)
    embedding_words = "`outputs.last_hidden_state[:, 0]`, the class token after the last LayerNorm"
    optional = ("pooler",)
    block_class = "ViTLayer"
    heads: tuple[str, ...] = ("classifier", "pooler")

    def describe(self, model: PreTrainedModel) -> Architecture:
        modules = [name for name, module in model.named_modules() if type(module).__name__ == self.block_class]
        blocks = [transformer_block(model, name, f"blocks.{number}") for number, name in enumerate(modules)]
        return assemble(model, self.model_type, self.heads, blocks)

    def embedding(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return the class token after the last LayerNorm.

        The pooler behind it is random in most models: checkpoints of DINO and of classifiers have none, but the class
        builds one, and saves it.
        """
        return outputs["last_hidden_state"][:, 0]

    @torch.no_grad()
    def take_image_size(self, model: PreTrainedModel, size: tuple[int, int]) -> None:
        """Interpolate the position embeddings, as transformers does for one forward (`interpolate_pos_encoding`)."""
        embeddings: Any = model.get_submodule(find_module(model, STEM).removesuffix(f".{STEM}"))
        patches, trained = embeddings.patch_embeddings, self.image_size(model)
        height, width = _pair(patches.patch_size)
        if trained[0] // height != trained[1] // width or size[0] < height or size[1] < width:
            raise ValueError(
                f"Expected a model trained on square images, and new ones of at least a patch ({height} x {width}), "
                f"found {trained[0]} x {trained[1]} and {size[0]} x {size[1]} pixels. Leave the size as it is."
            )
        count = (size[0] // height) * (size[1] // width)
        positions = embeddings.position_embeddings  # (1, class tokens and patches, channels)
        tokens = positions.new_empty(1, positions.shape[1] - patches.num_patches + count, positions.shape[2])
        interpolated = embeddings.interpolate_pos_encoding(tokens, *size).clone()
        embeddings.position_embeddings = nn.Parameter(interpolated, positions.requires_grad)
        patches.num_patches, patches.image_size, embeddings.image_size = count, size, size
        model.config.image_size = size[0] if size[0] == size[1] else size


def transformer_block(model: PreTrainedModel, module: str, name: str, shift_foldable: bool = True) -> Block:
    """Return the block of one module: attention and an MLP, each after a LayerNorm."""
    attention, mlp = f"{module}.attention", f"{module}.mlp"
    readers = tuple(f"{attention}.{projection}" for projection in ("q_proj", "k_proj", "v_proj"))
    units = (
        Unit(f"{name}.qkv", "qkv", readers),
        Unit(f"{name}.qk", "qk", (), attention),
        Unit(f"{name}.av", "av", (), attention),
        Unit(f"{name}.proj", "proj", (f"{attention}.o_proj",)),
        Unit(f"{name}.fc1", "fc1", (f"{mlp}.fc1",)),
        Unit(f"{name}.fc2", "fc2", (f"{mlp}.fc2",)),
    )
    norms = (
        NormReaders(f"{module}.layernorm_before", readers, shift_foldable),
        NormReaders(f"{module}.layernorm_after", (f"{mlp}.fc1",)),
    )
    own: Any = model.get_submodule(attention)
    activations = (Activation(f"{mlp}.activation_fn", f"{mlp}.fc1"),)
    residuals = (
        Residual(f"{attention}.o_proj", f"{module}.layernorm_before"),
        Residual(f"{mlp}.fc2", f"{module}.layernorm_after"),
    )
    return Block(
        name,
        module,
        units,
        norms,
        attention,
        own.num_attention_heads,
        own.head_dim,
        plain_output=True,
        activations=activations,
        residuals=residuals,
    )


def assemble(model: PreTrainedModel, model_type: str, heads: Sequence[str], blocks: Sequence[Block]) -> Architecture:
    """Return the architecture of a model with these heads and blocks."""
    layers = tuple(name for head in heads for name in linear_layers_of(model, head))
    return Architecture(model_type, find_module(model, STEM), layers, tuple(blocks), chain_of(blocks[0].module))


def _pair(side: int | Sequence[int]) -> tuple[int, int]:
    return (side, side) if isinstance(side, int) else (side[0], side[1])
