# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What each bit-width costs each unit, from the mean trace of the Hessian (as HAWQ-V2, arXiv 1911.03852).

    1/2 tr(H) / n |dW|^2    for the change dW of a layer's weight of n numbers,
    1/2 tr(H) / n |dx|^2    for the change dx of an operand, with both factors of the same image.

The trace is estimated as Hutchinson does, from random signs: with a probe v (`Task.probe`), the gradient g of v^T
logits has E|g|^2 = tr(J^T F J). At a weight it is g^T x, for the gradient g at the layer's output and its input x.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from optimum_mixq.stages.sensitivity.changes import Change
from optimum_mixq.stages.sensitivity.gradients import weight_gradients
from optimum_mixq.stages.sensitivity.registry import register_method
from optimum_mixq.stages.sensitivity.traced import TracedMethod
from optimum_mixq.stages.sensitivity.traces import Traced, UnitTrace
from optimum_mixq.utils.bits import Bits


@register_method
class HessianTrace(TracedMethod):
    """Damages by the mean trace of the Hessian times the squared error.

    # Unlike the paper: H is the Gauss-Newton matrix of the divergence from the model's own output, which needs no
    # labels and no second derivatives; at a minimum of the loss the paper's Hessian is close to it. The signs are
    # drawn at the logits, not at the weights. The error of a weight is that of its corrected and rounded values. A
    # bias has no bits, and its correction is left out, as there.
    """

    name = "hawq"
    probes = 2

    def damages(
        self, trace: UnitTrace, changes: Mapping[Bits, Change], baseline: Bits, images: int
    ) -> dict[Bits, Tensor]:
        of_operands = [_mean_trace(operand, images) for operand in trace.operands]
        of_weights = [_mean_trace_of_weight(trace.operands[0].values, output, images) for output in trace.outputs]
        found = {}
        for bits, change in changes.items():
            total = trace.operands[0].values.new_zeros(images, dtype=torch.float64)
            if change.operands:
                for rounding, operand, mean in zip(change.operands, trace.operands, of_operands, strict=True):
                    total += mean * rounding(operand.values).reshape(images, -1).square().sum(1).double()
            if change.layers:
                for (weight, _), mean in zip(change.layers(), of_weights, strict=True):
                    total += mean * weight.square().sum().double()
            found[bits] = total / 2
        return found


def _mean_trace(operand: Traced, images: int) -> Tensor:
    """Return the mean over an operand's numbers and the probes of squared gradients (images,), in float64."""
    squares = [gradient.reshape(images, -1).square().mean(1) for gradient in operand.gradients]
    return torch.stack(squares).double().mean(0)


def _mean_trace_of_weight(inputs: Tensor, output: Traced, images: int) -> Tensor:
    """Return the mean over a weight's numbers and the probes of squared gradients (images,), in float64."""
    numbers = output.values.shape[-1] * inputs.shape[-1]
    parts = [
        products.to(inputs.dtype).square().sum((2, 3)).double()
        for _, products in weight_gradients(inputs, output, images)
    ]
    return torch.stack(parts).sum(0).mean(1) / numbers
