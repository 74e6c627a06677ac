# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""From a packed model to one that is made of modules for export, and computes the same."""

import copy

import torch
from torch import nn
from transformers import PreTrainedModel

from optimum_mixq.architectures.base import Block, NormReaders
from optimum_mixq.architectures.describe import describe, replace_module
from optimum_mixq.config import ATTENTION_CHILD
from optimum_mixq.export.attention import OPERANDS, ExportAttention, attention_of
from optimum_mixq.export.layers import Affine, ExportEmbedding, ExportLinear, grid_affine
from optimum_mixq.integration.fusion import separate_layers, share_grid
from optimum_mixq.quant.packed import PackedLinear
from optimum_mixq.quant.packed_embedding import PackedConv2d


@torch.no_grad()
def convert(model: PreTrainedModel, attention: str, as_matrices: bool = False) -> PreTrainedModel:
    """Return a copy of a packed model for export, on the CPU in float32; the packed model stays as it is.

    `as_matrices` says whether its layers multiply matrices (`Target.as_matrices`).
    """
    kind = attention_of(attention)
    converted = copy.deepcopy(model).to("cpu", torch.float32)
    separate_layers(converted)
    architecture, modules = describe(converted), dict(converted.named_modules())
    in_codes = {reader for norm in architecture.norms if _fold_norm(converted, norm) for reader in norm.readers}
    inputs: dict[str, Affine] = {}
    outputs: dict[str, Affine] = {}
    for block in architecture.blocks:
        if block.attention is not None:
            name = f"{block.attention}.{ATTENTION_CHILD}"
            replacement = kind(converted.get_submodule(name))
            outputs |= _fold_operands(converted, block, replacement)
            inputs |= _fold_output(converted, block, replacement)
            replace_module(converted, name, replacement)
    for name, layer in modules.items():
        if isinstance(layer, PackedLinear):
            linear = ExportLinear.from_packed(layer, name in in_codes, inputs.get(name), outputs.get(name))
            replace_module(converted, name, linear)
        elif isinstance(layer, PackedConv2d):
            replace_module(converted, name, ExportEmbedding(layer))
    for module in converted.modules():
        if isinstance(module, ExportLinear):
            module.as_matrices = as_matrices
    return converted.eval().requires_grad_(False)


def integer_products(model: PreTrainedModel) -> int:
    """Return how many products of a converted model are those of linear layers and of the patch embedding."""
    return sum(isinstance(module, ExportLinear) for module in model.modules())


def _fold_norm(model: PreTrainedModel, norm: NormReaders) -> bool:
    """Let a LayerNorm put out codes before rounding if all its readers share one grid, in place; return whether."""
    layers = [model.get_submodule(name) for name in norm.readers]
    own = model.get_submodule(norm.norm)
    if not norm.shift_foldable or not isinstance(own, nn.LayerNorm) or own.bias is None or not share_grid(layers):
        return False
    to_codes = grid_affine(layers[0].input_grid)
    folded = nn.LayerNorm(own.normalized_shape, own.eps)
    folded.weight.copy_(own.weight * to_codes.multiplier)
    folded.bias.copy_(own.bias * to_codes.multiplier + to_codes.offset)
    replace_module(model, norm.norm, folded)
    return True


def _fold_operands(model: PreTrainedModel, block: Block, attention: ExportAttention) -> dict[str, Affine]:
    """Return what the layers that attention reads are to do to their outputs, by name, and tell attention so.

    They do nothing where something stands between them and attention.
    """
    if not block.plain_scores:
        return {}
    names = block.unit("qkv").modules
    if not all(isinstance(model.get_submodule(name), PackedLinear) for name in names):
        return {}
    attention.folded_operands = True
    return {name: attention.operand_affine(operand).flatten() for name, operand in zip(names, OPERANDS, strict=True)}


def _fold_output(model: PreTrainedModel, block: Block, attention: ExportAttention) -> dict[str, Affine]:
    """Return what the layer that reads attention's output is to do to it, by name, and tell attention so."""
    (name,) = block.unit("proj").modules
    if not block.plain_output or not isinstance(model.get_submodule(name), PackedLinear):
        return {}
    attention.folded_output = True
    return {name: attention.output_affine().flatten()}
