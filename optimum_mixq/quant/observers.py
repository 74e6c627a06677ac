# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Ranges from data: streaming minima and maxima with a bounded sample of rows, and vectorised searches over them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from optimum_mixq.quant.grids import UniformGrid, fake_quantize, require_finite, symmetric_grid, uniform_grid


# Share of the observed range that a searched grid may keep, per end.
CLIP_RATIOS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)


@dataclass(frozen=True)
class Observation:
    """What a stream of rows (C,) looked like.

    `values` (R, C) are a bounded number of values per channel, and `counts` (R, C) says how many of the
    stream's values each stands for: the extremes stand for themselves, the others are a sample.
    """

    low: Tensor  # (C,)
    high: Tensor  # (C,)
    values: Tensor
    counts: Tensor


class RowObserver:
    """Watches rows (..., C) batch by batch in bounded memory.

    Per channel it keeps the `tail` smallest and largest values exactly, since a few tokens carry the outliers that
    decide where to clip, and an evenly spread sample of rows for what lies between.
    """

    def __init__(self, name: str, sample_rows: int = 512, tail: int = 32) -> None:
        self.name, self.sample_rows, self.tail = name, sample_rows, tail
        self._sample: list[Tensor] = []
        self._bottom: Tensor | None = None  # (tail, C), sorted
        self._top: Tensor | None = None  # (tail, C), sorted
        self._stride, self._seen = 1, 0

    def observe(self, values: Tensor) -> None:
        rows = values.detach().flatten(0, -2).float()  # (N, C)
        require_finite(rows, f"the input of {self.name}")
        self._bottom = _extremes(self._bottom, rows, self.tail, largest=False)
        self._top = _extremes(self._top, rows, self.tail, largest=True)
        self._sample.append(rows[-self._seen % self._stride :: self._stride])
        self._seen += len(rows)
        while sum(map(len, self._sample)) > 2 * self.sample_rows:
            # Keep every second row: the sample stays evenly spread, and later batches are thinned alike.
            self._sample = [torch.cat(self._sample)[::2]]
            self._stride *= 2

    def result(self) -> Observation:
        if self._bottom is None or self._top is None:
            raise ValueError(
                f"{self.name} saw no data, so it has no range. Calibrate on images that reach every layer."
            )
        low, high = self._bottom.amin(0), self._top.amax(0)
        sample = torch.cat(self._sample)
        if self._stride == 1:
            return Observation(low, high, sample, torch.ones_like(sample))
        # Strata: the kept extremes count once; sampled values between them share the rest of the stream's count.
        between = (sample > self._bottom.amax(0)) & (sample < self._top.amin(0))
        share = (self._seen - 2 * self.tail) / between.sum(0).clamp(min=1)
        values = torch.cat([self._bottom, sample, self._top])
        counts = torch.cat([torch.ones_like(self._bottom), between * share, torch.ones_like(self._top)])
        return Observation(low, high, values, counts)


def _extremes(kept: Tensor | None, rows: Tensor, count: int, largest: bool) -> Tensor:
    candidates = rows if kept is None else torch.cat([kept, rows])
    # topk over the last dimension of a contiguous tensor: many times faster than over the first (torch 2.13, CPU).
    found = candidates.T.contiguous().topk(min(count, len(candidates)), largest=largest)
    return found.values.T.contiguous()


def minmax_grid(observation: Observation, bits: int, per_channel: bool = True) -> UniformGrid:
    """Return the grid (C,), or (1,), that spans everything that was seen."""
    low, high = observation.low, observation.high
    if not per_channel:
        low, high = low.amin().view(1), high.amax().view(1)
    return uniform_grid(low, high, bits)


def percentile_grid(observation: Observation, bits: int, percentile: float, per_channel: bool = True) -> UniformGrid:
    """Return the grid that spans the values between the quantiles `1 - percentile` and `percentile`."""
    values, counts = observation.values, observation.counts
    if not per_channel:
        values, counts = values.reshape(-1, 1), counts.reshape(-1, 1)
    values, order = values.sort(0)
    counts = counts.gather(0, order)
    position = counts.cumsum(0) / counts.sum(0)  # (R, C): share of the stream at or below each value
    low = values.gather(0, (position < 1 - percentile).sum(0, keepdim=True).clamp(max=len(values) - 1))[0]
    high = values.gather(0, (position < percentile).sum(0, keepdim=True).clamp(max=len(values) - 1))[0]
    return uniform_grid(low, high, bits)


def searched_grid(
    observation: Observation, bits: int, per_channel: bool = True, column_weight: Tensor | None = None
) -> UniformGrid:
    """Return the grid (C,), or (1,), of least squared error, over clip ratios of each end.

    The upper end is searched first and then the lower one, all channels at once. `column_weight` (C,) says how much
    an error in a channel costs the layer's output; it matters only where channels share a grid.
    """
    low, high = observation.low, observation.high
    if not per_channel:
        low, high = low.amin().view(1), high.amax().view(1)
    centre = ((low + high) / 2).clamp(low.clamp(max=0), high.clamp(min=0))
    # One-sided tensors, GELU's output among them, have one end near zero: ends shrink towards zero if it is inside
    # the range, else towards the middle.
    centre = torch.where((low < 0) & (high > 0), torch.zeros_like(low), centre)
    for end in ("high", "low"):
        best = low if end == "low" else high
        best_error = torch.full_like(best, torch.inf)
        for ratio in CLIP_RATIOS:
            candidate = centre + ratio * ((low if end == "low" else high) - centre)
            grid = uniform_grid(candidate if end == "low" else low, high if end == "low" else candidate, bits)
            error = _squared_error(observation, grid, per_channel, column_weight)
            best = torch.where(error < best_error, candidate, best)
            best_error = torch.minimum(error, best_error)
        low, high = (best, high) if end == "low" else (low, best)
    return uniform_grid(low, high, bits)


def searched_weight_grid(
    weight: Tensor, bits: int, column_weight: Tensor | None = None, search: bool = True
) -> UniformGrid:
    """Return the grid (out, 1) of least weighted squared error per row of `weight` (out, in), over clip ratios.

    `column_weight` (in,) is the mean square of each input. 8 bits take a symmetric grid, so that codes minus zero
    point fit int8; fewer bits fit it anyhow.
    """
    low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    low, high = low.clamp(max=0), high.clamp(min=0)

    def grid_at(ratio: Tensor | float) -> UniformGrid:
        if bits == 8:
            return symmetric_grid(torch.maximum(-low, high) * ratio, bits)
        return uniform_grid(low * ratio, high * ratio, bits)

    best_ratio, best_error = torch.ones_like(low), torch.full_like(low, torch.inf)
    for ratio in CLIP_RATIOS if bits < 8 and search else (1.0,):
        difference = (fake_quantize(weight, grid_at(ratio)) - weight).square()
        error = difference.sum(1, keepdim=True) if column_weight is None else (difference @ column_weight)[:, None]
        best_ratio = torch.where(error < best_error, torch.full_like(best_ratio, ratio), best_ratio)
        best_error = torch.minimum(error, best_error)
    return grid_at(best_ratio)


def _squared_error(
    observation: Observation, grid: UniformGrid, per_channel: bool, column_weight: Tensor | None
) -> Tensor:
    difference = fake_quantize(observation.values, grid) - observation.values
    error = difference.square_().mul_(observation.counts).sum(0)  # (C,)
    if per_channel:
        return error
    return (error if column_weight is None else error * column_weight).sum().view(1)
