# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What a packed model's layers compute together: LayerNorm by rows, the GELU after a layer, products of one input."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN, GELUActivation

from optimum_mixq.architectures.base import Activation
from optimum_mixq.architectures.describe import describe, replace_module
from optimum_mixq.quant.grids import UniformGrid
from optimum_mixq.quant.handover import Handover
from optimum_mixq.quant.joint import JointProduct
from optimum_mixq.quant.norms import RowLayerNorm, can_go_by_rows
from optimum_mixq.quant.packed import PackedLinear


def fuse_layers(model: PreTrainedModel) -> None:
    """Let a packed model compute together what it can, in place: it gives the same to float rounding."""
    fuse_activations(model)
    join_products(model)
    fuse_norms(model)
    hand_over_codes(model)


def separate_layers(model: PreTrainedModel) -> None:
    """Undo `fuse_layers`, in place."""
    hand_over_numbers(model)
    separate_activations(model)
    separate_products(model)
    separate_norms(model)


def fuse_activations(model: PreTrainedModel) -> None:
    """Let packed layers before a GELU compute it, in place: on x86 oneDNN does while the sums are in registers.

    Other activations than the exact GELU stay modules of their own.
    """
    for layer, activation in _layers_before_activations(model):
        if _is_exact_gelu(model.get_submodule(activation.module)):
            layer.fuse("gelu")
            replace_module(model, activation.module, nn.Identity())


def separate_activations(model: PreTrainedModel) -> None:
    """Undo `fuse_activations`, in place."""
    for layer, activation in _layers_before_activations(model):
        if layer.activation != "none":
            replace_module(model, activation.module, ACT2FN[layer.activation])
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


def hand_over_codes(model: PreTrainedModel) -> None:
    """Let norms and layers put out the codes of what alone reads them, in place, where kernels can: on NVIDIA GPUs."""
    architecture = describe(model)
    for norm in architecture.norms:
        module = model.get_submodule(norm.norm)
        reader = _reader_of([model.get_submodule(name) for name in norm.readers]) if norm.direct else None
        if isinstance(module, RowLayerNorm) and reader is not None:
            module.handover = Handover(reader)
    for layer, activation in _layers_before_activations(model):
        reader = None if activation.reader is None else _reader_of([model.get_submodule(activation.reader)])
        if layer.activation != "none" and layer.joint is None and reader is not None:
            layer.hand_over(Handover(reader))


def hand_over_numbers(model: PreTrainedModel) -> None:
    """Undo `hand_over_codes`, in place."""
    for module in model.modules():
        if isinstance(module, RowLayerNorm):
            module.handover = None
        elif isinstance(module, PackedLinear):
            module.hand_over(None)
            module.handover = None
            if module.joint is not None:
                module.joint.handover = None


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


def _reader_of(layers: Sequence[nn.Module]) -> PackedLinear | JointProduct | None:
    """Return what rounds the input of all these layers once, if they are packed."""
    first = layers[0]
    if not isinstance(first, PackedLinear):
        return None
    if len(layers) == 1:
        return first if first.joint is None else None
    joint = first.joint
    return joint if joint is not None and set(joint.layers) == set(layers) else None


def _layers_before_activations(model: PreTrainedModel) -> Iterator[tuple[PackedLinear, Activation]]:
    for block in describe(model).blocks:
        for activation in block.activations:
            layer = model.get_submodule(activation.layer)
            if isinstance(layer, PackedLinear):
                yield layer, activation


def _is_exact_gelu(activation: nn.Module) -> bool:
    return isinstance(activation, GELUActivation) or (
        isinstance(activation, nn.GELU) and activation.approximate == "none"
    )
