# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What training adds to its task's loss, and the mixing of images."""

import torch
from torch import Tensor


def compare_features(found: list[Tensor], expected: list[Tensor]) -> Tensor:
    """Return the mean over blocks of |found - expected|^2 / |expected|^2."""
    parts = [
        (f.float() - e.float()).square().mean() / e.float().square().mean().clamp(min=1e-12)
        for f, e in zip(found, expected, strict=True)
    ]
    return torch.stack(parts).mean()


def mix_images(
    pixels: Tensor, targets: Tensor, mixup: float, cutmix: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return images (B, C, H, W) and soft targets (B, ...), each mixed with another one of the batch.

    mixup (Zhang et al. 2018) adds pictures up, cutmix (Yun et al. 2019) pastes a rectangle; with both, one is drawn.
    """
    kinds = [kind for kind, strength in (("mixup", mixup), ("cutmix", cutmix)) if strength > 0]
    if not kinds:
        return pixels, targets
    kind = kinds[int(torch.randint(len(kinds), (), generator=generator))]
    share = _draw_beta(mixup if kind == "mixup" else cutmix, generator)
    order = torch.randperm(len(pixels), generator=generator).to(pixels.device)
    if kind == "mixup":
        mixed = share * pixels + (1 - share) * pixels[order]
    else:
        rows, columns, share = _draw_rectangle(pixels.shape[-2:], share, generator)
        mixed = pixels.clone()
        mixed[..., rows, columns] = pixels[order][..., rows, columns]
    return mixed, share * targets + (1 - share) * targets[order]


def _draw_beta(strength: float, generator: torch.Generator) -> float:
    """Return a number from Beta(strength, strength): a ratio of two Gammas, by the generator's own draws."""
    first, second = torch._standard_gamma(
        torch.full((2,), strength, dtype=torch.float64), generator=generator
    ).tolist()
    return first / max(first + second, 1e-300)


def _draw_rectangle(size: torch.Size, share: float, generator: torch.Generator) -> tuple[slice, slice, float]:
    """Return the rows and columns of a rectangle of 1 - share of the area, cut at the edges, and the share outside."""
    height, width = size
    spans = []
    for side in (height, width):
        length = round(side * (1 - share) ** 0.5)
        centre = int(torch.randint(side, (), generator=generator))
        spans.append((max(0, centre - length // 2), min(side, centre + (length + 1) // 2)))
    (top, bottom), (left, right) = spans
    outside = 1 - (bottom - top) * (right - left) / (height * width)
    return slice(top, bottom), slice(left, right), outside
