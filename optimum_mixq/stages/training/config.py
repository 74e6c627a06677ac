# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""How a quantized model is trained: one flat, checked recipe."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from optimum_mixq.utils.checks import is_number, is_positive, is_whole, require, require_one_of


@dataclass(frozen=True, kw_only=True)
class MixQTrainingConfig:
    """The recipe of quantization-aware training.

    Args:
        epochs: passes over the training images.
        max_steps: optimizer steps after which training ends, also in the middle of an epoch.
        batch_size: images per optimizer step, over all processes and accumulated parts together.
        learning_rate: of weights, and of everything that is no grid. None takes 1e-3 where weights have fewer than 2.5
            bits on average, and 3e-4 from there on (`for_bits`).
        step_learning_rate: of the grids' steps and offsets. None takes 3e-5 and 2e-4 likewise.
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
    learning_rate: float | None = None
    step_learning_rate: float | None = None
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
        def check(names: tuple[str, ...], holds: Callable[[Any], bool], expected: str) -> None:
            for name in names:
                require(holds(getattr(self, name)), name, expected, getattr(self, name))

        check(("epochs", "batch_size", "gradient_accumulation_steps"), lambda value: is_whole(value, 1), _COUNT)
        check(("max_steps", "save_steps"), lambda value: value is None or is_whole(value, 1), f"{_COUNT} or None")
        check(("learning_rate", "step_learning_rate"), lambda value: value is None or is_positive(value), _RATE)
        check(("temperature", "gradient_clip"), is_positive, "a positive number")
        check(
            ("weight_decay", "features", "mixup", "cutmix", "dampening"), lambda value: is_number(value, 0),
            "zero or more",
        )  # fmt: skip
        check(("distillation", "warmup", "shift"), lambda value: is_number(value, 0, 1), "a number from 0 to 1")
        check(
            ("ema", "label_smoothing"), lambda value: is_number(value, 0) and value < 1,
            "a number from 0 to below 1",
        )  # fmt: skip
        check(("flip", "gradient_checkpointing"), lambda value: isinstance(value, bool), "True or False")
        check(("seed",), lambda value: is_whole(value, 0), "a whole number from zero")
        require_one_of("mixed_precision", ("no", "bf16", "fp16"), self.mixed_precision)
        parts = self.gradient_accumulation_steps
        divisor = f"a divisor of batch_size ({self.batch_size})"
        require(self.batch_size % parts == 0, "gradient_accumulation_steps", divisor, parts)

    def for_bits(self, average_bits: float) -> "MixQTrainingConfig":
        """Return the recipe with the learning rates that were left open, as weights of so many bits want them.

        >>> MixQTrainingConfig().for_bits(3.0).learning_rate, MixQTrainingConfig().for_bits(2.3).learning_rate
        (0.0003, 0.001)
        """
        rate, step_rate = (1e-3, 3e-5) if average_bits < 2.5 else (3e-4, 2e-4)
        return replace(
            self,
            learning_rate=rate if self.learning_rate is None else self.learning_rate,
            step_learning_rate=step_rate if self.step_learning_rate is None else self.step_learning_rate,
        )


_COUNT, _RATE = "a positive whole number", "a positive number, or None for what suits the bits"
