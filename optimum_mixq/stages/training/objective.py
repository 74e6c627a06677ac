# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What training minimizes: the distance to the float model, the loss against labels, and the pull to the grid."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq.architectures.describe import describe
from optimum_mixq.quant.learned import LearnedLinear
from optimum_mixq.stages.training.config import MixQTrainingConfig
from optimum_mixq.stages.training.data import mix_seeds
from optimum_mixq.stages.training.losses import compare_features, mix_images
from optimum_mixq.tasks import Task, task_of


if TYPE_CHECKING:
    from accelerate import Accelerator


class Objective:
    """The loss of a model that learns, beside the float model that teaches it."""

    def __init__(
        self,
        model: nn.Module,  # as Accelerate prepared it
        teacher: PreTrainedModel,
        config: MixQTrainingConfig,
        accelerator: "Accelerator",
        total_steps: int,
    ) -> None:
        self.model, self.teacher, self.config = model, teacher, config
        self.accelerator, self.total_steps, self.task = accelerator, total_steps, task_of(teacher)
        self.plain = accelerator.unwrap_model(model)

    def loss(self, pixels: Tensor, targets: Tensor, step: int, part: int) -> Tensor:
        """Return the loss of one part of a step's batch: pixels (B, C, H, W), and targets, NaN where unlabelled."""
        config = self.config
        if config.distillation < 1 and targets.isnan().any():
            raise ValueError("Expected labelled images to train on with distillation below 1, found some without.")
        seed = mix_seeds(config.seed, step, part, self.accelerator.process_index)
        generator = torch.Generator().manual_seed(seed)
        pixels, targets = mix_images(pixels, targets, config.mixup, config.cutmix, generator)
        logits, student, taught, teacher = self._run(pixels)
        loss = logits.new_zeros((), dtype=torch.float32)
        if config.distillation:
            assert taught is not None
            divergence = self.task.divergence(logits.float(), taught.float(), config.temperature)
            loss = loss + config.distillation * divergence.mean()
        if config.distillation < 1:
            against_labels = self.task.loss(logits.float(), targets, config.label_smoothing)
            loss = loss + (1 - config.distillation) * against_labels.mean()
        if config.features:
            loss = loss + config.features * compare_features(student, teacher)
        if config.dampening:
            loss = loss + self._dampening(step)
        return loss

    def _run(self, pixels: Tensor) -> tuple[Tensor, list[Tensor], Tensor | None, list[Tensor]]:
        """Return the model's logits and what its blocks give, and the teacher's, as far as they are asked for."""
        student: list[Tensor] = []
        teacher: list[Tensor] = []
        taught = None
        with ExitStack() as stack:
            if self.config.features:
                stack.enter_context(_block_outputs(self.plain, student))
                stack.enter_context(_block_outputs(self.teacher, teacher))
            logits = self.task.logits(self.plain, self.model(pixel_values=pixels))
            if self.config.distillation or self.config.features:
                with torch.no_grad(), self.accelerator.autocast():
                    taught = self.task.logits(self.teacher, self.teacher(pixel_values=pixels))
        return logits, student, taught, teacher

    def _dampening(self, step: int) -> Tensor:
        """Return the pull to the grid, whose weight rises from zero to `dampening` over the whole training."""
        layers = [module for module in self.plain.modules() if isinstance(module, LearnedLinear)]
        weights = sum(layer.weight.numel() for layer in layers)
        strength = self.config.dampening * (1 - math.cos(math.pi * step / self.total_steps)) / 2
        return strength * torch.stack([layer.dampening() for layer in layers]).sum() / weights


def require_lesson(task: Task, config: MixQTrainingConfig) -> None:
    """Raise a ValueError if labels are to be learned from, and a model of this task has no loss against them."""
    if config.distillation < 1 and not task.has_loss:
        raise ValueError(
            f"Expected distillation=1 for the task '{task.hub_task}', found {config.distillation:g}: there is no loss "
            f"against its labels here. {task.lacks_loss}"
        )
    if config.distillation < 1 and (config.mixup or config.cutmix) and not task.mixes_targets:
        raise ValueError(
            f"Expected mixup=0 and cutmix=0 for labels of the task '{task.hub_task}', found {config.mixup:g} and "
            f"{config.cutmix:g}: such labels cannot be mixed. Set both to 0, or distillation to 1."
        )


@contextmanager
def _block_outputs(model: PreTrainedModel, outputs: list[Tensor]) -> Iterator[None]:
    def take(_: nn.Module, __: tuple, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    hooks = [model.get_submodule(block.module).register_forward_hook(take) for block in describe(model).blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
