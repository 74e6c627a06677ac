# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What each bit-width costs each unit, from gradients: no variant is run.

A small change d of the logits makes a divergence of d^T F d / 2 (docs/pipeline.md, "Sensitivity from gradients"). With
random probes v, E[v v^T] = F (`Task.probe`), that is E[s^2] / 2 with s = v^T d, and to first order s is what a unit
changes times the gradient of v^T logits there:

    <g, x dW^T + db>    for changes dW, db of a layer with input x and the gradient g at its output,
    <g, dx>             for a change dx of an operand and the gradient g there.

So one forward and a few backward passes tell of all widths of all units.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from optimum_mixq.quant.bfloat16 import dtype_of_products
from optimum_mixq.stages.sensitivity.changes import Change, LayerChange
from optimum_mixq.stages.sensitivity.registry import register_method
from optimum_mixq.stages.sensitivity.traced import TracedMethod
from optimum_mixq.stages.sensitivity.traces import Traced, UnitTrace
from optimum_mixq.utils.bits import Bits


# Numbers of the products of gradients and inputs at once: they stay in the cache.
CACHED_NUMBERS = 2**22


@register_method
class Gradient(TracedMethod):
    """Damages of second order around the baseline's weights, from a few backward passes per image."""

    name = "gradient"
    probes = 2  # Images differ so much that more of them tell little.

    def damages(
        self, trace: UnitTrace, changes: Mapping[Bits, Change], baseline: Bits, images: int
    ) -> dict[Bits, Tensor]:
        effects = join_effects(find_effects(trace, changes, images), baseline)
        return {bits: effect.square().mean(0) / 2 for bits, effect in effects.items()}


def find_effects(
    trace: UnitTrace, changes: Mapping[Bits, Change], images: int, squared: bool = False
) -> dict[Bits, Tensor]:
    """Return, by bits, the change s (probes, images) of v^T logits to first order, in float64.

    It is a sum, over all numbers that change, of the gradient there times the change. `squared` sums the squares of
    these products.
    """
    probes, device = len(trace.operands[0].gradients), trace.operands[0].values.device
    found = {bits: torch.zeros(probes, images, dtype=torch.float64, device=device) for bits in changes}
    for bits, change in changes.items():
        if change.operands:
            for rounding, operand in zip(change.operands, trace.operands, strict=True):
                found[bits] += _multiply(rounding(operand.values), operand, images, squared)
    layers = {bits: change.layers() for bits, change in changes.items() if change.layers}
    for output, layer in zip(trace.outputs, zip(*layers.values(), strict=True), strict=True):
        effects = _multiply_weights(trace.operands[0].values, output, layer, images, squared)
        for bits, effect in zip(layers, effects, strict=True):
            found[bits] += effect
    return found


def join_effects(effects: Mapping[Bits, Tensor], baseline: Bits) -> dict[Bits, Tensor]:
    """Return the effects, and beside them the sum for each pair of weight bits and activation bits known apart."""
    weights = [bits for bits in effects if bits[0] != baseline[0] and bits[1] == baseline[1]]
    activations = [bits for bits in effects if bits[0] == baseline[0] and bits[1] != baseline[1]]
    sums = {Bits(w[0], a[1]): effects[w] + effects[a] for w in weights for a in activations}
    return {**sums, **effects}


def weight_gradients(inputs: Tensor, output: Traced, images: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield rows of a weight (O, C) and the gradients there, (images, probes, rows, C): a few rows at a time.

    They are g^T x for the layer's inputs x (..., C) and the gradients g (..., O) at its output. In bfloat16 each is
    off by 0.2 % or so, at random: it hardly shows in sums over a weight.
    """
    dtype = dtype_of_products(inputs)
    x = inputs.reshape(images, -1, inputs.shape[-1]).to(dtype)  # (B, N, C)
    gradients = _side_by_side(output, images).to(dtype)
    probes, outputs = gradients.shape[2:]
    step = max(1, CACHED_NUMBERS // (images * probes * x.shape[-1]))
    for start in range(0, outputs, step):
        part = gradients[..., start : start + step].flatten(2)  # (B, N, R o)
        yield slice(start, start + step), (part.mT @ x).view(images, probes, -1, x.shape[-1])


def _multiply(change: Tensor, traced: Traced, images: int, squared: bool) -> Tensor:
    """Return a change times each probe's gradient, (probes, images); windows of an image lie side by side."""
    rows = change.reshape(images, -1)
    gradients = (gradient.reshape(images, -1) for gradient in traced.gradients)
    if squared:
        products = [(gradient * rows).square().sum(1) for gradient in gradients]
    else:
        products = [torch.linalg.vecdot(gradient, rows) for gradient in gradients]
    return torch.stack(products).double()


def _multiply_weights(
    inputs: Tensor, output: Traced, layer: Sequence[LayerChange], images: int, squared: bool
) -> Tensor:
    """Return <g^T x, dW> + <g, db> (changes, probes, images), for x (..., C) and gradients g (..., O).

    g^T x (O, C) is made for each image and probe and serves all changes. `squared` squares each factor.
    """
    weights = torch.stack([weight for weight, _ in layer])  # (changes, O, C)
    none = inputs.new_zeros(weights.shape[1])
    biases = torch.stack([none if bias is None else bias for _, bias in layer])  # (changes, O)
    of_biases = _side_by_side(output, images).sum(1)  # (B, R, O)
    if squared:
        weights, biases, of_biases = weights.square(), biases.square(), of_biases.square()
    total = (of_biases @ biases.T).double()  # (B, R, changes)
    weights = weights.to(dtype_of_products(inputs))
    for rows, products in weight_gradients(inputs, output, images):
        factors = products.square() if squared else products
        total += factors.flatten(2) @ weights[:, rows].flatten(1).T
    return total.permute(2, 1, 0)


def _side_by_side(output: Traced, images: int) -> Tensor:
    """Return the probes' gradients (B, N, probes, O) at a layer's output."""
    parts = [gradient.reshape(images, -1, gradient.shape[-1]) for gradient in output.gradients]
    return torch.stack(parts, 2)
