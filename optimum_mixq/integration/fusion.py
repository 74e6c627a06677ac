# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What a packed model's layers compute together: LayerNorm by rows, the GELU after a layer, products of one input."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN, GELUActivation

from optimum_mixq.architectures.describe import describe, replace_module
from optimum_mixq.quant.grids import UniformGrid
from optimum_mixq.quant.joint import JointProduct
from optimum_mixq.quant.norms import RowLayerNorm, can_go_by_rows
from optimum_mixq.quant.packed import PackedLinear


def fuse_layers(model: PreTrainedModel) -> None:
    """Let a packed model compute together what it can, in place: it gives the same to float rounding."""
    fuse_activations(model)
    join_products(model)
    fuse_norms(model)


def separate_layers(model: PreTrainedModel) -> None:
    """Undo `fuse_layers`, in place."""
    separate_activations(model)
    separate_products(model)
    separate_norms(model)


def fuse_activations(model: PreTrainedModel) -> None:
    """Let packed layers before a GELU compute it, in place: on x86 oneDNN does while the sums are in registers.

    Other activations than the exact GELU stay modules of their own.
    """
    for layer, name in _layers_before_activations(model):
        if _is_exact_gelu(model.get_submodule(name)):
            layer.fuse("gelu")
            replace_module(model, name, nn.Identity())


def separate_activations(model: PreTrainedModel) -> None:
    """Undo `fuse_activations`, in place."""
    for layer, name in _layers_before_activations(model):
        if layer.activation != "none":
            replace_module(model, name, ACT2FN[layer.activation])
            layer.fuse("none")


def join_products(model: PreTrainedModel) -> None:
    """Let packed layers that read the same input on the same grid compute one product together, in place."""
    # Modules move in the order of their registration: a CLIP calls its query first and has it last.
    order = {module: number for number, module in enumerate(model.modules())}
    for layers in _readers_of_one_input(model):
        if share_grid(layers) and all(layer.activation == "none" for layer in layers):
            JointProduct(layers, max(range(len(layers)), key=lambda place: order[layers[place]])).join()


def separate_products(model: PreTrainedModel) -> None:
    """Undo `join_products`, in place."""
    for layers in _readers_of_one_input(model):
        if layers[0].joint is not None:
            layers[0].joint.separate()


def fuse_norms(model: PreTrainedModel) -> None:
    """Let compiled LayerNorms be one pass with what stands around them, in place."""
    for name, module in list(model.named_modules()):
        if can_go_by_rows(module):
            replace_module(model, name, RowLayerNorm.of(module))


def separate_norms(model: PreTrainedModel) -> None:
    """Undo `fuse_norms`, in place."""
    for name, module in list(model.named_modules()):
        if isinstance(module, RowLayerNorm):
            replace_module(model, name, module.to_plain())


def share_grid(layers: Sequence[nn.Module]) -> bool:
    """Return whether all layers are packed and round their inputs to the same grid."""
    grids = [layer.input_grid for layer in layers if isinstance(layer, PackedLinear)]
    return len(grids) == len(layers) and all(_are_equal(grid, grids[0]) for grid in grids)


def _readers_of_one_input(model: PreTrainedModel) -> Iterator[list[PackedLinear]]:
    for unit in describe(model).units:
        layers = [model.get_submodule(name) for name in unit.modules]
        if len(layers) > 1 and all(isinstance(layer, PackedLinear) for layer in layers):
            yield layers


def _are_equal(grid: UniformGrid, other: UniformGrid) -> bool:
    return (
        grid.bits == other.bits
        and torch.equal(grid.scale, other.scale)
        and torch.equal(grid.zero_point, other.zero_point)
    )


def _layers_before_activations(model: PreTrainedModel) -> Iterator[tuple[PackedLinear, str]]:
    for block in describe(model).blocks:
        for activation in block.activations:
            layer = model.get_submodule(activation.layer)
            if isinstance(layer, PackedLinear):
                yield layer, activation.module


def _is_exact_gelu(activation: nn.Module) -> bool:
    return isinstance(activation, GELUActivation) or (
        isinstance(activation, nn.GELU) and activation.approximate == "none"
    )
