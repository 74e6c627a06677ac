# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Whether an exported file does in its engine what the model does in PyTorch.

Logits cannot be equal bit for bit: a change of the pixels by a millionth already gives some activations another code.
So the engine may be as far from PyTorch as such a change moves PyTorch's own logits, times a factor.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.export.conversion import integer_products
from optimum_mixq.export.targets import Engine
from optimum_mixq.export.tracing import INPUT


# How much further than after a change of the pixels by a millionth logits may be.
FACTOR = 8.0
# What is allowed where that change flips no code: shares of the logits' standard deviation.
LEAST_SHARE, LARGEST_SHARE = 0.05, 0.5


@dataclass(frozen=True)
class Check:
    """How far an engine's logits are from PyTorch's, on generated images."""

    images: int
    distance: float  # median over images of the largest difference from the converted model in PyTorch
    allowed: float  # the largest distance that passes
    deviation: float  # root mean square of the difference from the packed model, by the deviation of its logits
    integer_products: int  # that the engine multiplies in 8-bit integers
    products: int  # of linear layers and the patch embedding

    @property
    def passes(self) -> bool:
        return self.distance <= self.allowed and self.deviation <= LARGEST_SHARE

    def describe(self) -> str:
        """Return what was found in one line.

        >>> Check(8, 0.012, 0.15, 0.02, 76, 76).describe()
        '8 generated images: logits within 0.012 of PyTorch, 0.15 allowed; 76 of 76 products are 8-bit integers'
        """
        packed = f", but {self.deviation:.2g} of their spread from the packed model"
        return (
            f"{self.images} generated images: logits within {self.distance:.2g} of PyTorch, {self.allowed:.2g} allowed"
            f"{packed if self.deviation > LARGEST_SHARE else ''}; {self.integer_products} of {self.products} products "
            "are 8-bit integers"
        )


@torch.no_grad()
def check_engine(engine: Engine, packed: PreTrainedModel, converted: PreTrainedModel, pixels: Tensor) -> Check:
    """Return how far an engine's logits for pixels (B, C, H, W) are from those of both models."""
    found = torch.as_tensor(engine.run(pixels.numpy())["logits"]).double()
    expected, moved = (_logits(converted, values) for values in (pixels, pixels * (1 + 1e-6)))
    reference = _logits(packed, pixels)
    distance, floor = (_median_distance(logits, expected) for logits in (found, moved))
    return Check(
        len(pixels),
        distance,
        FACTOR * max(floor, LEAST_SHARE / FACTOR * _spread(expected)),
        float((found - reference).square().mean().sqrt()) / _spread(reference),
        engine.integer_products(),
        integer_products(converted),
    )


def generated_images(count: int, channels: int, size: tuple[int, int]) -> Tensor:
    """Return normalised pixels (count, channels, height, width) of blurred shapes with some noise, always the same."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, channels, 6, 6, generator=generator)
    shapes = torch.nn.functional.interpolate(coarse, size, mode="bicubic")
    return shapes + 0.1 * torch.randn(count, channels, *size, generator=generator)


def _logits(model: PreTrainedModel, pixels: Tensor) -> Tensor:
    return model(**{INPUT: pixels.to(model.device, model.dtype)}).logits.double().cpu()


def _median_distance(logits: Tensor, expected: Tensor) -> float:
    return float((logits - expected).abs().amax(-1).median())


def _spread(logits: Tensor) -> float:
    """Return the standard deviation of logits, or a share of their size where all are equal."""
    return max(float(logits.std(correction=0)), 1e-4 * float(logits.abs().max()), 1e-12)
