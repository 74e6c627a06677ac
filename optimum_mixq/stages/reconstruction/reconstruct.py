# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Has each block learn once it is calibrated, before the next one is."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.architectures.block_run import BlockRun
from optimum_mixq.architectures.describe import describe
from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import MixQConfig
from optimum_mixq.images.batches import Batch
from optimum_mixq.images.fingerprints import digest_inputs, digest_settings, short_digest
from optimum_mixq.stages.reconstruction.budgets import Budget, budget_of, learns
from optimum_mixq.stages.reconstruction.learn import learn_block
from optimum_mixq.stages.reconstruction.losses import Loss, loss_of
from optimum_mixq.stages.reconstruction.states import BlockStates


logger = logging.getLogger(__name__)

# One image of so many is held out: it decides whether what a block learned is kept.
HELD_OUT_SHARE = 8
# With fewer images there is too little to learn from, and nothing to judge it by.
FEWEST_IMAGES = 16


def require_reconstructible(model: PreTrainedModel, images: Sequence[Tensor], config: MixQConfig) -> None:
    """Raise a ValueError if blocks are to learn, and the images are too few or the loss does not fit the model."""
    options = config.reconstruction_options
    if not learns(options.reconstruction):
        return
    count = sum(map(len, images))
    if count < FEWEST_IMAGES:
        raise ValueError(
            f"Expected at least {FEWEST_IMAGES} calibration images to reconstruct from, found {count}. Add images or "
            "raise calibration_samples; or set reconstruction='light', which takes any number."
        )
    objection = loss_of(options.reconstruction_loss).objection(model)
    if objection is not None:
        raise ValueError(objection)


def start_reconstruction(
    model: PreTrainedModel,
    plan: BitPlan,
    images: Sequence[Tensor],
    config: MixQConfig,
    work: Path | None = None,
) -> "Reconstruction | None":
    """Return what has blocks learn under the configuration's `reconstruction`, or None where nothing learns.

    `images` are batches (B, C, H, W). An eighth of them is held out: calibration and learning do not see it, and what
    a block learned is kept if it helps there. In the folder `work` each block is saved once it has learned, and a run
    that was stopped goes on from there.
    """
    options = config.reconstruction_options
    if options.reconstruction is None or not learns(options.reconstruction):
        return None
    require_reconstructible(model, images, config)
    budget = budget_of(options.reconstruction)
    seen, held_out = split_images(images)
    generator = torch.Generator().manual_seed(config.seed)
    loss = loss_of(options.reconstruction_loss)(model, [*seen, *held_out], generator)
    states = None
    if work is not None:
        marks = {
            **digest_inputs(model, [Batch(pixels, None, ()) for pixels in images]),
            **digest_settings(config.calibration, options, further={"plan": str(plan.bits), "budget": str(budget)}),
        }
        states = BlockStates(work / f"reconstruction-{short_digest(marks)}")
    return Reconstruction(model, seen, held_out, loss, budget, config.seed, states)


def split_images(images: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the batches that blocks learn from, and those of the last images, which are held out."""
    every, size = torch.cat(list(images)), max(map(len, images))
    seen = len(every) - len(every) // HELD_OUT_SHARE
    return list(every[:seen].split(size)), list(every[seen:].split(size))


class Reconstruction:
    """What calibration, on `images`, calls with each block that it has calibrated."""

    def __init__(
        self,
        model: PreTrainedModel,
        images: Sequence[Tensor],
        held_out: Sequence[Tensor],
        loss: Loss,
        budget: Budget,
        seed: int,
        states: BlockStates | None,
    ) -> None:
        self.images, self.held_out = images, held_out
        self._loss, self._budget, self._seed, self._states = loss, budget, seed, states
        self._numbers = {block.name: number for number, block in enumerate(describe(model).blocks)}

    def __call__(
        self, run: BlockRun, expected: Sequence[Tensor], held: BlockRun, held_expected: Sequence[Tensor]
    ) -> None:
        """Have the block learn, or take what it learned in a run that was stopped."""
        if self._states is not None and self._states.restore(run):
            return
        # Each block has draws of its own, so that a run that goes on learns as one that was not stopped.
        generator = torch.Generator().manual_seed((self._seed + 1) * 10_007 + self._numbers[run.block.name])
        errors = learn_block(run, expected, held, held_expected, self._loss, self._budget, generator)
        told = "kept" if errors.helped else "undone"
        logger.info("%s: error %.4g before, %.4g after: %s.", run.block.name, errors.before, errors.after, told)
        if self._states is not None:
            self._states.save(run, errors.helped)
