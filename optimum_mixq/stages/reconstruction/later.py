# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The error of a block's output, and what the float model's later blocks make of it: a local and a global loss."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq.architectures.describe import Block, describe
from optimum_mixq.architectures.measuring import measuring
from optimum_mixq.architectures.replay import finish, lead_on, record_calls, run_block
from optimum_mixq.stages.reconstruction.losses import Loss, OutputLoss, register_loss
from optimum_mixq.tasks import run_model, task_of


# What logits are divided by, as where plans are compared: all images have a say.
TEMPERATURE = 4.0
# What a nat counts beside the relative error. More of it fits the images that are learned from, and less the block.
WEIGHT = 0.1


@register_loss
class LogitsLoss(Loss):
    """The relative error of the block's output plus a tenth of the divergence of the logits that it leads to.

    The float model's blocks take the output from there to the logits.
    """

    name = "logits"

    @classmethod
    def objection(cls, model: PreTrainedModel) -> str | None:
        taps = describe(model).taps
        if not taps:
            return None
        return (
            f"Expected a model whose last block alone leads to its output with reconstruction_loss='{cls.name}', "
            f"found one that also reads {', '.join(taps)}. Set reconstruction_loss='output'."
        )

    def __init__(self, model: PreTrainedModel, images: Sequence[Tensor], generator: torch.Generator) -> None:
        self.model, self.architecture = model, describe(model)
        self.output = OutputLoss(model, images, generator)
        with measuring(model), torch.no_grad():
            batches = [pixels.to(model.device, model.dtype) for pixels in images]
            self.calls = record_calls(model, self.architecture, batches[0][:1])
            self.reference = torch.cat([run_model(model, pixels) for pixels in batches])  # (images, ...)

    def measure(self, block: Block, rows: Tensor, found: Tensor, expected: Tensor) -> Tensor:
        with measuring(self.model), _frozen(self.model):
            logits = self._finish(block, found)
        divergence = task_of(self.model).divergence(logits, self.reference[rows], TEMPERATURE)
        return self.output.measure(block, rows, found, expected) + WEIGHT * divergence.mean()

    def _finish(self, block: Block, hidden: Tensor) -> Tensor:
        """Return the logits that the float model makes of hidden states after a block."""
        model, blocks = self.model, self.architecture.blocks
        for later in blocks[blocks.index(block) + 1 :]:
            hidden = lead_on(model, self.architecture, self.calls, later, hidden)
            hidden = run_block(model, later, hidden, self.calls.blocks[later.name])
        outputs = finish(model, self.architecture, self.calls, self.calls.image, hidden)
        return task_of(model).logits(model, outputs)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Let no gradient reach the model's own parameters from what is computed in the block."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
