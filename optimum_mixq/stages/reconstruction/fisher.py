# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The error of a block's output, weighted by how much each token and channel of it matters to the logits."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq.architectures.describe import Block, describe
from optimum_mixq.architectures.measuring import measuring
from optimum_mixq.stages.reconstruction.losses import Loss, register_loss
from optimum_mixq.tasks import run_model, task_of


@register_loss
class FisherLoss(Loss):
    """The squared error weighted by the Fisher information's diagonal (BRECQ, arXiv 2102.05426, equation 10).

    With v the task's probes, E[v v^T] the Fisher information of the logits, the gradient g of v . logits at the
    block's output y gives E[g^2], and the loss is the sum of E[g^2] (found - expected)^2.

    # Unlike BRECQ: no labels, and in bounded memory. Of g^2 (B, T, C) the mean over channels of each image and token,
    # and the mean over images and tokens of each channel, are kept; their product stands for it.
    """

    name = "fisher"
    probes = 2

    def __init__(self, model: PreTrainedModel, images: Sequence[Tensor], generator: torch.Generator) -> None:
        self.tokens: dict[str, Tensor] = {}  # by block name, (images, ..., 1), with a mean of one
        self.channels: dict[str, Tensor] = {}  # (C,), likewise
        found: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for pixels in images:
            for name, (tokens, channels) in _measure_squares(model, pixels, self.probes, generator).items():
                found.setdefault(name, []).append((tokens, channels * len(pixels)))
        for name, parts in found.items():
            self.tokens[name] = _divide_by_mean(torch.cat([tokens for tokens, _ in parts]))
            self.channels[name] = _divide_by_mean(torch.stack([channels for _, channels in parts]).sum(0))

    def measure(self, block: Block, rows: Tensor, found: Tensor, expected: Tensor) -> Tensor:
        weights = self.tokens[block.name][rows] * self.channels[block.name]
        return (weights * (found - expected).square()).mean() / expected.var(correction=0)


def _measure_squares(
    model: PreTrainedModel, pixels: Tensor, probes: int, generator: torch.Generator
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the means of squared gradients at the blocks' outputs: over channels (B, ..., 1), and all else (C,)."""
    outputs: dict[str, Tensor] = {}
    blocks, task = describe(model).blocks, task_of(model)

    def keep(block: Block):  # type: ignore[no-untyped-def]
        def hook(_: nn.Module, __: tuple, output: Tensor | tuple[Tensor, ...]) -> None:
            outputs[block.name] = output[0] if isinstance(output, tuple) else output

        return model.get_submodule(block.module).register_forward_hook(hook)

    hooks = [keep(block) for block in blocks]
    pixels = pixels.to(model.device, model.dtype)
    try:
        with measuring(model), torch.enable_grad():
            logits = run_model(model, pixels.requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
    squares: dict[str, tuple[Tensor, Tensor]] = {}
    for number in range(probes):
        signs = torch.randint(0, 2, logits.shape, generator=generator).to(logits) * 2 - 1
        probe = task.probe(logits.detach(), signs)
        gradients = torch.autograd.grad(logits, list(outputs.values()), probe, retain_graph=number < probes - 1)
        for name, gradient in zip(outputs, gradients, strict=True):
            square = gradient.square()
            tokens, channels = square.mean(-1, keepdim=True), square.flatten(0, -2).mean(0)
            before = squares.get(name, (torch.zeros_like(tokens), torch.zeros_like(channels)))
            squares[name] = before[0] + tokens, before[1] + channels
    return squares


def _divide_by_mean(values: Tensor) -> Tensor:
    return values / values.mean().clamp(min=torch.finfo(values.dtype).tiny)
