# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What other bits change in a unit: the weights and biases of its layers, and what enters it."""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq.architectures.describe import Unit
from optimum_mixq.quant.attention import AttentionQuantizer
from optimum_mixq.quant.grids import UniformGrid, fake_quantize
from optimum_mixq.quant.packed import PackedLinear
from optimum_mixq.quant.packed_embedding import PackedConv2d
from optimum_mixq.quant.softmax_grids import SoftmaxGrid
from optimum_mixq.stages.sensitivity.registry import Variants
from optimum_mixq.utils.bits import Bits


# The change of a layer's weight (O, C), and that of its bias (O,).
LayerChange = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Change:
    """What a unit's other bits change in it, each part if it changes.

    `layers` returns the changes of its layers; of each operand `operands` returns what rounding adds to it.
    """

    layers: Callable[[], Sequence[LayerChange]] | None
    operands: Sequence[Callable[[Tensor], Tensor]] | None


class VariantChanges:
    """The changes that a unit's variants make to a model of the baseline's weights.

    Activations are not rounded in that model: what a variant's rounding adds counts from the exact operand.
    """

    def __init__(self, baseline: PreTrainedModel, around: Bits, variants: Variants) -> None:
        self.model, self._around, self._variants = dequantize(baseline), around, variants

    def of(self, unit: Unit) -> dict[Bits, Change]:
        """Return the unit's changes by bits; a matmul has none where the bits of its operands are the baseline's."""
        of_unit = self._change_matmul if unit.is_matmul else self._change_layers
        return {bits: of_unit(unit, bits, modules) for bits, modules in self._variants[unit.name].items()}

    def _change_layers(self, unit: Unit, bits: Bits, modules: Mapping[str, nn.Module]) -> Change:
        norms = [name for name in modules if name not in unit.modules]
        moved = _Affine.between(self.model.get_submodule(norms[0]), modules[norms[0]]) if norms else None
        layers: list[Any] = [(self.model.get_submodule(name), modules[name]) for name in unit.modules]
        return Change(
            # Also where only what it reads has other bits: a weight is corrected for those.
            functools.partial(_subtract_layers, layers, moved),
            (functools.partial(_round_input, layers[0][1].input_grid, moved),) if bits[1] != self._around[1] else None,
        )

    def _change_matmul(self, unit: Unit, bits: Bits, modules: Mapping[str, nn.Module]) -> Change:
        (quantizer,) = modules.values()
        assert isinstance(quantizer, AttentionQuantizer)
        if unit.kind == "qk":
            roundings = [functools.partial(_round, quantizer.grid(name, bits[1])) for name in ("query", "key")]
        else:
            value = functools.partial(_round, quantizer.grid("value", bits[1]))
            roundings = [functools.partial(_round_softmax, quantizer.softmax_grid), value]
        return Change(None, roundings)


@dataclass(frozen=True)
class _Affine:
    """What a variant reads, scale * x + shift, where the model reads x: its LayerNorm was folded in another way."""

    scale: Tensor  # (C,)
    shift: Tensor  # (C,)

    @classmethod
    def between(cls, own: nn.Module, other: nn.Module) -> "_Affine":
        assert isinstance(own, nn.LayerNorm) and isinstance(other, nn.LayerNorm)
        scale = torch.where(own.weight == 0, torch.ones_like(own.weight), other.weight / own.weight)
        return cls(scale, other.bias - scale * own.bias)


@torch.no_grad()
def dequantize(model: PreTrainedModel) -> PreTrainedModel:
    """Return a float copy of a packed model in the model's own dtype, with the weights that its layers multiply by."""
    # As deepcopy's memo the float layers take the place of copies.
    layers = {
        id(module): module.to_float() for module in model.modules() if isinstance(module, (PackedLinear, PackedConv2d))
    }
    return copy.deepcopy(model, layers).to(model.dtype).eval().requires_grad_(False)


def _subtract_layers(layers: Sequence[tuple[nn.Linear, PackedLinear]], moved: _Affine | None) -> list[LayerChange]:
    changes: list[LayerChange] = []
    for own, variant in layers:
        weight = variant.dequantized_weight().to(own.weight.dtype)
        bias = None if variant.bias is None else variant.bias.to(own.weight.dtype)
        if moved is not None:
            bias = weight @ moved.shift if bias is None else bias + weight @ moved.shift
            weight = weight * moved.scale
        if bias is not None and own.bias is not None:
            bias = bias - own.bias
        changes.append((weight - own.weight, bias))
    return changes


def _round_input(grid: UniformGrid, moved: _Affine | None, values: Tensor) -> Tensor:
    if moved is None:
        return _round(grid, values)
    return _round(grid, values * moved.scale + moved.shift) / moved.scale


def _round(grid: UniformGrid, values: Tensor) -> Tensor:
    return fake_quantize(values, grid) - values


def _round_softmax(grid: SoftmaxGrid, weights: Tensor) -> Tensor:
    # The logarithm of a row is its scores up to a number that softmax does not see.
    return grid.softmax(weights.log()) - weights
