# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What each bit-width costs each unit, from the gradient of the loss (as `auto_quantize` of NVIDIA ModelOpt).

    sum of (g dy)^2, a mean over images

for the change dy of a layer's output when its input and weight are rounded, and the gradient g of the loss there. The
loss is against the images' labels, or against the model's own prediction where they have none.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from optimum_mixq.artifacts import SensitivityTable
from optimum_mixq.stages.sensitivity.changes import Change
from optimum_mixq.stages.sensitivity.registry import SensitivityInputs, register_method
from optimum_mixq.stages.sensitivity.traced import TracedMethod
from optimum_mixq.stages.sensitivity.traces import UnitTrace
from optimum_mixq.tasks import Task, task_of
from optimum_mixq.utils.bits import Bits


@register_method
class FirstOrder(TracedMethod):
    """Damages by the squares of first-order terms.

    # Unlike ModelOpt: the products of attention have bits too. They are not linear in both operands together, so that
    # their operands' own changes and gradients are multiplied.
    """

    name = "first-order"
    probes = 1

    def measure(self, inputs: SensitivityInputs, fingerprint: dict[str, str]) -> SensitivityTable:
        task = task_of(inputs.model)
        if not task.has_loss:
            raise ValueError(
                "Expected a task with a loss against labels for sensitivity='first-order', found "
                f"'{task.hub_task}', which has none here. Choose sensitivity='gradient'."
            )
        labelled = all(batch.labels is not None for batch in inputs.batches)
        if not labelled and not task.predicts_labels:
            raise ValueError(
                "Expected labels for sensitivity='first-order', found images without: the model predicts numbers, and "
                "its loss against its own prediction is zero. Give images with labels, or choose "
                "sensitivity='gradient'."
            )
        return super().measure(inputs, fingerprint)

    def start(self, task: Task, logits: Tensor, labels: Tensor | None, signs: Tensor, temperature: float) -> Tensor:
        """Return the gradient (B, ...) of each image's loss at its logits. Neither signs nor temperature count."""
        wanted = task.predicted(logits) if labels is None else labels
        assert wanted is not None  # `measure` refuses such images
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            loss = task.loss(leaf, task.targets(wanted, logits.shape[-1])).sum()
        return torch.autograd.grad(loss, leaf)[0]

    def damages(
        self, trace: UnitTrace, changes: Mapping[Bits, Change], baseline: Bits, images: int
    ) -> dict[Bits, Tensor]:
        damages_of = _damages_of_layers if trace.outputs else _damages_of_operands
        return {bits: damages_of(trace, change, images) for bits, change in changes.items()}


def _damages_of_layers(trace: UnitTrace, change: Change, images: int) -> Tensor:
    """Return the sum (images,) of (g dy)^2 with dy = (x + dx) (W + dW)^T + db - x W^T, over a unit's layers."""
    x = trace.operands[0].values
    added = change.operands[0](x) if change.operands else None
    read = x if added is None else x + added
    total = x.new_zeros(images, dtype=torch.float64)
    layers = change.layers() if change.layers else ()
    for own, output, (weight, bias) in zip(trace.weights, trace.outputs, layers, strict=True):
        moved = F.linear(read, weight, bias)
        if added is not None:
            moved += F.linear(added, own)
        total += _sum_squares(output.gradients[0] * moved, images)
    return total


def _damages_of_operands(trace: UnitTrace, change: Change, images: int) -> Tensor:
    """Return the sum (images,) of (g dx)^2 over the operands of a matmul."""
    operands = zip(trace.operands, change.operands or (), strict=True)
    parts = [_sum_squares(operand.gradients[0] * rounding(operand.values), images) for operand, rounding in operands]
    return torch.stack(parts).sum(0)


def _sum_squares(values: Tensor, images: int) -> Tensor:
    return values.reshape(images, -1).square().sum(1).double()
