# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What most families have in common: a chain of blocks with attention and an MLP, each after a LayerNorm."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

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


@dataclass(frozen=True)
class Names:
    """What a family calls the modules of a block; the defaults are those of ViT (transformers 5.9 to 5.23)."""

    attention: str = "attention"
    qkv: tuple[str, ...] = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
    proj: str = "attention.o_proj"
    fc1: tuple[str, ...] = ("mlp.fc1",)
    fc2: str = "mlp.fc2"
    activation: str = "mlp.activation_fn"  # of the first layer of fc1
    norms: tuple[str, ...] = ("layernorm_before", "layernorm_after")  # before attention and before the MLP, if any
    heads: str = "num_attention_heads"  # an attribute of the attention, as the next one
    head_size: str = "head_dim"
    passing: tuple[str, ...] = ()
    plain_scores: bool = True  # whether queries and keys are multiplied as their layers put them out
    plain_sums: bool = True  # whether what proj and fc2 put out is added to the hidden states as it is


# Of the modelling files that still nest their layers as BERT does.
NESTED_NAMES = Names(
    attention="attention.attention",
    qkv=("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    proj="attention.output.dense",
    fc1=("intermediate.dense",),
    fc2="output.dense",
    activation="intermediate.intermediate_act_fn",
    head_size="attention_head_size",
)


class Encoder(Family):
    """A family whose blocks are modules of one class, in one list."""

    block_class: str
    names = Names()
    stem: str = "patch_embeddings.projection"
    heads: tuple[str, ...] = ("classifier",)

    def describe(self, model: PreTrainedModel) -> Architecture:
        modules = [name for name, module in model.named_modules() if type(module).__name__ == self.block_class]
        blocks = [
            transformer_block(model, name, f"blocks.{number}", self.names_in(model))
            for number, name in enumerate(modules)
        ]
        found = assemble(model, self.model_type, self.heads, blocks, self.stem, self.left_float(model))
        return replace(found, taps=self.taps(model))

    def taps(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the names of blocks whose hidden states are read by more than the next block."""
        return ()

    def names_in(self, model: PreTrainedModel) -> Names:
        """Return the names in the blocks of one model."""
        return self.names

    def left_float(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the linear layers and convolutions of a model that are not quantized."""
        return ()


def transformer_block(
    model: PreTrainedModel, module: str, name: str, names: Names, shift_foldable: bool = True
) -> Block:
    """Return the block of one module."""

    def full(modules: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{module}.{each}" for each in modules)

    (attention,), qkv, fc1, (fc2,) = full((names.attention,)), full(names.qkv), full(names.fc1), full((names.fc2,))
    units = (
        Unit(f"{name}.qkv", "qkv", qkv),
        Unit(f"{name}.qk", "qk", (), attention),
        Unit(f"{name}.av", "av", (), attention),
        Unit(f"{name}.proj", "proj", full((names.proj,))),
        Unit(f"{name}.fc1", "fc1", fc1),
        Unit(f"{name}.fc2", "fc2", (fc2,)),
    )
    readers = zip(full(names.norms), (qkv, fc1), (shift_foldable, True), strict=False)
    residuals = zip(full((names.proj, names.fc2)), full(names.norms), strict=False) if names.plain_sums else ()
    own: Any = model.get_submodule(attention)
    return Block(
        name,
        module,
        units,
        tuple(NormReaders(*each, direct=True) for each in readers),
        attention,
        getattr(own, names.heads),
        getattr(own, names.head_size),
        names.plain_scores,
        plain_output=True,
        activations=(Activation(f"{module}.{names.activation}", fc1[0], None if len(fc1) > 1 else fc2),),
        residuals=tuple(Residual(*each) for each in residuals),
        passing=full(names.passing),
    )


def assemble(
    model: PreTrainedModel,
    model_type: str,
    heads: Sequence[str],
    blocks: Sequence[Block],
    stem: str = Encoder.stem,
    left_float: tuple[str, ...] = (),
) -> Architecture:
    """Return the architecture of a model with these heads and blocks."""
    layers = tuple(name for head in heads for name in linear_layers_of(model, head))
    chain = chain_of(blocks[0].module)
    return Architecture(model_type, find_module(model, stem), layers, tuple(blocks), chain, left_float)


def pair(side: int | Sequence[int]) -> tuple[int, int]:
    """Return (height, width) of what may be given as one number."""
    return (side, side) if isinstance(side, int) else (side[0], side[1])


def require_interpolable(trained: tuple[int, int], patch: tuple[int, int], size: tuple[int, int]) -> None:
    """Raise a ValueError unless position embeddings can be interpolated from one image size to another."""
    height, width = patch
    if trained[0] // height != trained[1] // width or size[0] < height or size[1] < width:
        raise ValueError(
            f"Expected a model trained on square images, and new ones of at least a patch ({height} x {width}), "
            f"found {trained[0]} x {trained[1]} and {size[0]} x {size[1]} pixels. Leave the size as it is."
        )
