# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Grids for what a GELU puts out, one for a whole tensor, as other methods have them: to measure, not to run.

One product of 8-bit integers takes none of the two that are not uniform at all widths: what their codes stand for are
no multiples of one step, or of too small a one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


# Of the largest value seen.
RATIOS = [number / 40 for number in range(8, 41)]


class GeluGrid(ABC):
    """The numbers that a tensor is rounded to."""

    @abstractmethod
    def round(self, values: Tensor) -> Tensor:
        """Return the grid's values nearest to these."""


@dataclass(frozen=True)
class OneUniform(GeluGrid):
    """Equal steps, step * (code - zero_point), for all channels together."""

    step: float
    zero_point: int
    bits: int

    def round(self, values: Tensor) -> Tensor:
        codes = (values / self.step + self.zero_point + 0.5).floor().clamp(0, 2**self.bits - 1)
        return (codes - self.zero_point) * self.step


@dataclass(frozen=True)
class TwinUniform(GeluGrid):
    """One bit chooses the sign, and bits - 1 are the code: step * -code below zero, step * 2^shift * code above.

    PTQ4ViT (arXiv 2111.12293, section 3.2); codes 0..2^(bits - 1) - 1.
    """

    step: float
    shift: int
    bits: int

    def round(self, values: Tensor) -> Tensor:
        largest = 2 ** (self.bits - 1) - 1
        below = -(-values / self.step + 0.5).floor().clamp(0, largest) * self.step
        step = self.step * 2**self.shift
        above = (values / step + 0.5).floor().clamp(0, largest) * step
        return torch.where(values < 0, below, above)


@dataclass(frozen=True)
class ShiftedLog(GeluGrid):
    """Powers of 2^(-numerator / 37), times a scale, less a shift that makes all numbers positive.

    AdaLog (arXiv 2407.12951, section 3.2); codes 0..2^bits - 1, and no zero.
    """

    scale: float
    shift: float
    numerator: int
    bits: int

    def round(self, values: Tensor) -> Tensor:
        steps = 37 / self.numerator  # per octave
        octaves = -torch.log2(((values + self.shift) / self.scale).clamp(min=1e-30))
        codes = (steps * octaves + 0.5).floor().clamp(0, 2**self.bits - 1)
        return self.scale * 2 ** (-codes / steps) - self.shift


def one_uniform_grids(low: float, high: float, bits: int) -> Iterable[GeluGrid]:
    for ratio in RATIOS:
        step = (ratio * high - low) / (2**bits - 1)
        yield OneUniform(step, round(-low / step), bits)


def twin_uniform_grids(low: float, high: float, bits: int) -> Iterable[GeluGrid]:
    for shift in range(12):
        yield TwinUniform(-low / (2 ** (bits - 1) - 1), shift, bits)


def shifted_log_grids(low: float, high: float, bits: int) -> Iterable[GeluGrid]:
    # The least value lies half a hundredth of the range above zero, where a logarithm would have no end.
    shift = -low + (high - low) / 200
    for ratio in RATIOS[::4]:
        for numerator in range(4, 75, 3):
            yield ShiftedLog(ratio * high + shift, shift, numerator, bits)


# For each kind the grids for a tensor of a range, from the least to the largest number.
KINDS: dict[str, Callable[[float, float, int], Iterable[GeluGrid]]] = {
    "one uniform grid": one_uniform_grids,
    "twin uniform": twin_uniform_grids,
    "shifted log": shifted_log_grids,
}


def choose(kind: str, values: Tensor, bits: int) -> GeluGrid:
    """Return the grid of a kind with the least squared error on these values."""
    low, high = min(float(values.min()), -1e-3), max(float(values.max()), 1e-3)
    return min(KINDS[kind](low, high, bits), key=lambda grid: float((grid.round(values) - values).square().sum()))
