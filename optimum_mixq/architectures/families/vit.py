# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""ViT, and the block that transformers 5.9 to 5.23 write alike for ViT, DeiT and Swin."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from optimum_mixq.architectures.base import (
    Activation,
    Architecture,
    Block,
    Family,
    NormReaders,
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
    block_class = "ViTLayer"
    heads: tuple[str, ...] = ("classifier",)

    def describe(self, model: PreTrainedModel) -> Architecture:
        modules = [name for name, module in model.named_modules() if type(module).__name__ == self.block_class]
        blocks = [transformer_block(model, name, f"blocks.{number}") for number, name in enumerate(modules)]
        return assemble(model, self.model_type, self.heads, blocks)


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
    return Block(
        name,
        module,
        units,
        norms,
        attention,
        own.num_attention_heads,
        own.head_dim,
        activations=activations,
    )


def assemble(model: PreTrainedModel, model_type: str, heads: Sequence[str], blocks: Sequence[Block]) -> Architecture:
    """Return the architecture of a model with these heads and blocks."""
    layers = tuple(name for head in heads for name in linear_layers_of(model, head))
    return Architecture(model_type, find_module(model, STEM), layers, tuple(blocks), chain_of(blocks[0].module))
