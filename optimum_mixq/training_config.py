# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""How a quantized model is trained: one flat, checked recipe."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class MixQTrainingConfig:
    """The recipe of quantization-aware training.

    Args:
        epochs: passes over the training images.
        max_steps: optimizer steps after which training ends, also in the middle of an epoch.
        batch_size: images per optimizer step, over all processes and accumulated parts together.
        learning_rate: of weights, and of everything that is no grid.
        step_learning_rate: of the grids' steps and offsets.
        weight_decay: of weights alone.
        warmup: share of all optimizer steps in which the learning rate rises; then it falls as a cosine to zero.
        distillation: share of the loss that is KL(float model || quantized); the rest is cross-entropy of the labels.
            1 needs no labels.
        temperature: of both in the distillation.
        features: weight of the mean squared distance between the blocks' outputs and the float model's, relative to
            their size.
        label_smoothing: of the cross-entropy.
        mixup, cutmix: parameter of the Beta distribution that mixes pairs of images; 0 is off, and with both one is
            drawn per batch.
        dampening: weight of the pull of each weight to its grid's nearest value, rising as a cosine from zero; 0 is
            off. It keeps weights from flipping between two values at 2 and 3 bits.
        shift: share of an image's side by which it is moved at random.
        flip: mirror half of the images.
        ema: decay of the exponential moving average of all weights that is evaluated and kept; 0 is off.
        gradient_clip: largest norm of the gradient.
        gradient_accumulation_steps: parts that a batch is computed in.
        gradient_checkpointing: compute blocks again in backward instead of keeping what they computed.
        mixed_precision: "no", "bf16" or "fp16", as in Accelerate.
        save_steps: optimizer steps between two saved states; None saves after each epoch.
        seed: draws the order of the images and how they are moved.
    """

    epochs: int = 10
    max_steps: int | None = None
    batch_size: int = 64
    learning_rate: float = 1e-3
    step_learning_rate: float = 3e-5
    weight_decay: float = 0.01
    warmup: float = 0.05
    distillation: float = 1.0
    temperature: float = 1.0
    features: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    dampening: float = 0.0
    shift: float = 0.07
    flip: bool = True
    ema: float = 0.0
    gradient_clip: float = 1.0
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    save_steps: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "gradient_accumulation_steps"):
            self._require(name, isinstance(getattr(self, name), int) and getattr(self, name) >= 1, "a positive number")
        for name in ("max_steps", "save_steps"):
            value = getattr(self, name)
            self._require(name, value is None or value >= 1, "a positive number or None")
        for name in ("learning_rate", "step_learning_rate", "temperature", "gradient_clip"):
            self._require(name, getattr(self, name) > 0, "a positive number")
        for name in ("weight_decay", "features", "mixup", "cutmix", "dampening", "shift"):
            self._require(name, getattr(self, name) >= 0, "zero or more")
        for name in ("distillation", "warmup"):
            self._require(name, 0 <= getattr(self, name) <= 1, "a number from 0 to 1")
        for name in ("ema", "label_smoothing"):
            self._require(name, 0 <= getattr(self, name) < 1, "a number from 0 to below 1")
        self._require("mixed_precision", self.mixed_precision in ("no", "bf16", "fp16"), "'no', 'bf16' or 'fp16'")
        self._require(
            "gradient_accumulation_steps",
            self.batch_size % self.gradient_accumulation_steps == 0,
            f"a divisor of batch_size ({self.batch_size})",
        )

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ValueError(f"Expected {name} to be {expected}, found {getattr(self, name)!r}.")
