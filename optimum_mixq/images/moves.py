# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Moves images at random while a model is trained, and with them what labels say of places."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Move:
    """A shift by so many pixels, edges repeated, and then a mirror's image from left to right."""

    down: int = 0
    right: int = 0
    mirrored: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """Return images (..., C, H, W) moved."""
        height, width = images.shape[-2:]
        rows, columns = abs(self.down), abs(self.right)
        if rows or columns:
            padded = F.pad(images, (columns, columns, rows, rows), mode="replicate")
            top, left = rows - self.down, columns - self.right
            images = padded[..., top : top + height, left : left + width]
        return images.flip(-1) if self.mirrored else images


def draw_move(size: Sequence[int], shift: float, flip: bool, generator: torch.Generator) -> Move:
    """Return a move of an image (height, width) by up to `shift` of its sides, half the time mirrored if `flip`."""
    rows, columns = (round(shift * side) for side in size)
    down = right = 0
    if rows or columns:
        down = rows - int(torch.randint(2 * rows + 1, (), generator=generator))
        right = columns - int(torch.randint(2 * columns + 1, (), generator=generator))
    return Move(down, right, flip and bool(torch.rand((), generator=generator) < 0.5))
