# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Whether an exported file does in its engine what the model does in PyTorch.

Logits cannot be equal bit for bit. The last digit of a sum decides between two codes, a code that changes moves all
that follows, and with few bits a change by a hundred-thousandth moves logits as far as any small change does. So the
engine may be as far from PyTorch as PyTorch is from itself when every value that is rounded is changed that little.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq.export.conversion import integer_products
from optimum_mixq.export.layers import Rounding
from optimum_mixq.export.targets import Engine
from optimum_mixq.tasks import run_model, task_of


# By how much every value that is rounded is changed, and how many times what this does to logits is allowed.
CHANGE, FACTOR = 1e-5, 2.0
# Bounds of what is allowed: below lies what a single code does, and at 1.4 logits have nothing to do with each other.
LEAST, MOST = 0.05, 1.0
# What is allowed beside the packed model, which runs another attention, and that in bfloat16 where a CPU has it.
PACKED = 0.5


@dataclass(frozen=True)
class CheckImages:
    """Pixels (B, C, H, W) to check on, and what they are."""

    pixels: Tensor
    description: str
    real: bool


@dataclass(frozen=True)
class Check:
    """How far an engine's logits are from PyTorch's; distances are shares of the logits' standard deviation."""

    images: int
    description: str  # of the images
    distance: float  # root mean square of the difference from the converted model in PyTorch
    packed_distance: float  # and from the packed model, which may run attention in another way
    allowed: float  # the largest distance that passes
    agreement: float | None  # share of images with the packed model's prediction; None for images that are not real
    divergence: (
        float | None
    )  # mean divergence from the packed model, the task's own; None for images that are not real
    integer_products: int  # that the engine multiplies in 8-bit integers
    products: int  # of linear layers and the patch embedding

    @property
    def passes(self) -> bool:
        return self.distance <= self.allowed and self.packed_distance <= max(PACKED, self.allowed)

    def describe(self) -> str:
        """Return what was found in one line.

        >>> Check(8, "generated images", 0.012, 0.02, 0.15, None, None, 76, 76).describe()
        'logits of 8 generated images off by 1.2 % of their spread, 15 % allowed; 76 of 76 products are 8-bit integers'
        """
        parts = [
            f"logits of {self.images} {self.description} off by {_percent(self.distance)} of their spread, "
            f"{_percent(self.allowed)} allowed"
        ]
        if not self.passes:
            parts.append(f"{_percent(self.packed_distance)} beside the packed model's")
        if self.agreement is not None:
            parts.append(f"{_percent(self.agreement)} the same predictions")
        if self.divergence is not None:
            parts.append(f"divergence {self.divergence:.2g}")
        return f"{', '.join(parts)}; {self.integer_products} of {self.products} products are 8-bit integers"


@torch.no_grad()
def check_engine(engine: Engine, packed: PreTrainedModel, converted: PreTrainedModel, images: CheckImages) -> Check:
    """Return how far an engine's logits are from those of both models."""
    task = task_of(packed)
    outputs = {name: torch.as_tensor(values) for name, values in engine.run(images.pixels.numpy()).items()}
    found = task.logits(packed, outputs).double()
    expected, reference = _logits(converted, images.pixels), _logits(packed, images.pixels)
    with _changed_values(converted):
        floor = _distance(_logits(converted, images.pixels), expected)
    return Check(
        len(found),
        images.description,
        _distance(found, expected),
        _distance(found, reference),
        min(MOST, max(LEAST, FACTOR * floor)),
        task.agreement(found, reference) if images.real else None,
        float(task.divergence(found, reference).mean()) if images.real else None,
        engine.integer_products(),
        integer_products(converted),
    )


def generated_images(count: int, channels: int, size: tuple[int, int]) -> CheckImages:
    """Return normalised pixels (count, channels, height, width) of blurred shapes with some noise, always the same."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, channels, 6, 6, generator=generator)
    shapes = F.interpolate(coarse, size, mode="bicubic")
    pixels = shapes + 0.1 * torch.randn(count, channels, *size, generator=generator)
    return CheckImages(pixels, "generated images", real=False)


@contextmanager
def _changed_values(converted: nn.Module) -> Iterator[None]:
    """Have every value that a layer rounds changed a little inside the block."""
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: (inputs[0] * (1 + CHANGE),))
        for module in converted.modules()
        if isinstance(module, Rounding)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _logits(model: PreTrainedModel, pixels: Tensor) -> Tensor:
    return run_model(model, pixels.to(model.device, model.dtype)).double().cpu()


def _distance(logits: Tensor, expected: Tensor) -> float:
    """Return the root mean square of the difference, as a share of the standard deviation of what is expected."""
    spread = max(float(expected.std(correction=0)), 1e-4 * float(expected.abs().max()), 1e-12)
    return float((logits - expected).square().mean().sqrt()) / spread


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 1 else f"{100 * share:.0f} %"
