# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What each bit-width costs each unit, from the diagonal of the Fisher information (as LampQ, arXiv 2511.10004).

The Fisher information is E[g g^T] for the gradient g of log p(class | image), with classes drawn from the model's own
prediction. Of its quadratic form the diagonal is kept:

    1/2 E[sum of (g_ij dW_ij)^2]    for the change dW of a weight with the gradient g at it, biases likewise,
    1/2 E[sum of (g dx)^2]          for the change dx of an operand with the gradient g at it.

The gradients are those of the task's probes. For softmax, and for the likelihoods of the other tasks, the Fisher
information is the Gauss-Newton matrix J^T F J with F = E[v v^T] (`Task.probe`). The expectation over probes is
therefore exactly that over classes, at the temperature that divides the logits.

This differs from `gradient` in that errors are squared before they are summed: as if none of them met another.
"""

from collections.abc import Mapping

from torch import Tensor

from optimum_mixq.stages.sensitivity.changes import Change
from optimum_mixq.stages.sensitivity.gradients import find_effects
from optimum_mixq.stages.sensitivity.registry import register_method
from optimum_mixq.stages.sensitivity.traced import TracedMethod
from optimum_mixq.stages.sensitivity.traces import UnitTrace
from optimum_mixq.utils.bits import Bits


@register_method
class Fisher(TracedMethod):
    """Damages by the diagonal Fisher information.

    # Unlike the paper: it takes the trace of a layer's Fisher information and scales it by the layer's type, so that
    # types are of one size. Here each number's own error is weighted, which brings the sizes with it.
    """

    name = "fisher"
    probes = 2

    def damages(
        self, trace: UnitTrace, changes: Mapping[Bits, Change], baseline: Bits, images: int
    ) -> dict[Bits, Tensor]:
        effects = find_effects(trace, changes, images, squared=True)
        return {bits: effect.mean(0) / 2 for bits, effect in effects.items()}
