# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""From damages of single images to a table: its means, their standard errors, and the tables of two halves.

The halves are the images at even and at odd positions in the stream, so that they do not depend on batches.
"""

import math
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from optimum_mixq.artifacts import Rows, SensitivityTable
from optimum_mixq.stages.sensitivity.registry import SensitivityInputs
from optimum_mixq.utils.bits import Bits


# Of one entry: the sum over images at even positions, that over images at odd ones, and the sum of all squares.
Moments = list[float]
# By unit and bits, as text.
Sums = dict[str, dict[str, Moments]]


def sum_images(damages: Tensor, first: int) -> Moments:
    """Return the moments of damages (images,), given the position of the first image in the stream."""
    damages = damages.cpu().double()
    even, odd = damages[first % 2 :: 2].sum(), damages[(first + 1) % 2 :: 2].sum()
    return [float(even), float(odd), float(damages.square().sum())]


def make_table(
    inputs: SensitivityInputs,
    fingerprint: dict[str, str],
    sums: Sums,
    units: Iterable[str],
    images: int,
    baseline_damage: float = 0.0,
) -> SensitivityTable:
    """Return the table of so many images, given the moments of their damages by unit and bits."""
    wanted = tuple(Bits(*bits) for bits in (*inputs.candidates, inputs.baseline))
    units = tuple(units)

    def rows(of: Callable[[Moments], float]) -> Rows:
        # A matmul has no weight: where its operands' bits are the baseline's, it is the baseline.
        return {
            unit: dict.fromkeys(wanted, 0.0) | {Bits.parse(text): of(moments) for text, moments in sums[unit].items()}
            for unit in units
        }

    table = rows(lambda moments: (moments[0] + moments[1]) / images)
    errors = halves = None
    if images > 1:
        odd = images // 2
        errors = rows(lambda moments: _standard_error(moments, images))
        halves = rows(lambda moments: moments[0] / (images - odd)), rows(lambda moments: moments[1] / odd)
    return SensitivityTable(
        table, inputs.baseline, baseline_damage, inputs.metric, images, fingerprint, errors, halves
    )  # fmt: skip


def _standard_error(moments: Sequence[float], images: int) -> float:
    """Return the standard error of the mean over more than one image."""
    even, odd, squares = moments
    variance = (squares - (even + odd) ** 2 / images) / (images - 1)
    return math.sqrt(max(variance, 0.0) / images)
