# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Rounds the weight of a linear layer so that its output, not the weight, is close: closed forms, no gradients.

`correct_weight` moves the weight so that the layer gives the float output from its quantized input (ridge regression,
as ERQ, arXiv 2407.06794). `round_compensated` rounds column by column and lets later columns make up for the error of
earlier ones (GPTQ, arXiv 2210.17323). Both need only the second moments of the layer's input.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optimum_mixq.quant.codes import add_gram_
from optimum_mixq.quant.grids import UniformGrid


@dataclass(frozen=True)
class InputMoments:
    """Moments over the rows x (C,) of a layer's quantized input, and with the float layer's output y (O,)."""

    mean: Tensor  # (C,)      E[x]
    covariance: Tensor  # (C, C)  E[(x - mean) (x - mean)^T]
    target_mean: Tensor  # (O,)     E[y]
    cross: Tensor  # (C, O)  E[(x - mean) (y - target_mean)^T]

    def of_values(self, grid: UniformGrid) -> "InputMoments":
        """Return the moments of the values scale * (q - zero_point), if these are moments of codes q."""
        scale = grid.scale.expand_as(self.mean)
        return InputMoments(
            scale * (self.mean - grid.zero_point),
            scale[:, None] * self.covariance * scale[None, :],
            self.target_mean,
            scale[:, None] * self.cross,
        )

    @property
    def second_moment(self) -> Tensor:
        return self.covariance + self.mean[:, None] * self.mean[None, :]


class MomentAccumulator:
    """Gathers `InputMoments` over batches of values, or of uint8 codes; it does not grow with the number of rows."""

    def __init__(self) -> None:
        self._rows = 0
        self._sums: tuple[Tensor, ...] = ()

    def observe(self, inputs: Tensor, targets: Tensor) -> None:
        x, y = inputs.detach().flatten(0, -2), targets.detach().flatten(0, -2)  # (N, C), (N, O)
        if not self._sums:
            self._dtype, squares = y.dtype, torch.float64 if x.dtype == torch.uint8 else x.dtype
            shapes = (x.shape[1:], (x.shape[1], x.shape[1]), y.shape[1:], (x.shape[1], y.shape[1]))
            dtypes = (torch.float64, squares, torch.float64, y.dtype)
            self._sums = tuple(
                torch.zeros(shape, dtype=dtype, device=x.device) for shape, dtype in zip(shapes, dtypes, strict=True)
            )
        inputs_sum, gram, targets_sum, cross = self._sums
        # torch 2.13 on a CPU sums codes to int32 ten times as fast as to float64.
        inputs_sum.add_(x.sum(0, dtype=torch.int32 if x.dtype == torch.uint8 else torch.float64))
        add_gram_(gram, x)
        targets_sum.add_(y.sum(0, dtype=torch.float64))
        cross.addmm_(x.T.to(y.dtype), y)
        self._rows += len(x)

    def result(self) -> InputMoments:
        """Return the moments of all that was observed; the accumulator is spent."""
        x, y = self._sums[0] / self._rows, self._sums[2] / self._rows
        covariance = self._sums[1].div_(self._rows).addr_(x, x, alpha=-1)
        cross = (self._sums[3].double() / self._rows).addr_(x, y, alpha=-1)
        return InputMoments(*(moment.to(self._dtype) for moment in (x, covariance, y, cross)))


def correct_weight(
    weight: Tensor, bias: Tensor | None, moments: InputMoments, ridge: float
) -> tuple[Tensor, Tensor | None]:
    """Return W (O, C) and b (O,) of least E|y - W x - b|^2 + ridge * mean(diag(covariance)) * |W - weight|^2.

    A layer without bias gets none, and then the moments are taken about zero.
    """
    matrix, cross = moments.covariance, moments.cross
    if bias is None:
        matrix, cross = moments.second_moment, cross + moments.mean[:, None] * moments.target_mean[None, :]
    rest = cross - matrix @ weight.T  # (C, O)
    change = torch.cholesky_solve(rest, torch.linalg.cholesky(_damp_(matrix.clone(), ridge))).T
    corrected = weight + change
    return corrected, None if bias is None else moments.target_mean - corrected @ moments.mean


def round_compensated(
    weight: Tensor, grids: Sequence[UniformGrid], second_moment: Tensor, damping: float = 0.01, block: int = 128
) -> list[Tensor]:
    """Return `weight` (O, C) rounded to each of the `grids` (O, 1), column after column, largest input first.

    With M = L L^T the inputs' second moment (C, C), the columns in ascending order of their inputs, an error e = w - r
    costs |L^T e|^2, and of that a column adds L_ii e_i + sum_{j > i} L_ji e_j: the value rounded in its place is

        w_i + sum_{j > i} L_ji e_j / L_ii.

    That is the rounding of GPTQ (arXiv 2210.17323, section 3.3), without the inverse of M that it is written with.
    Grids share the factor L, and each step of the loop: it costs little more for several of them.
    """
    order = second_moment.diagonal().argsort()
    factor = torch.linalg.cholesky(_damp_(second_moment[order[:, None], order], damping))  # L
    # Everything in units of codes; (C, grids O): a column of the weights is one contiguous row here.
    ordered = weight[:, order]
    exact = torch.cat([ordered / grid.scale + grid.zero_point for grid in grids]).T.contiguous()
    largest = torch.cat([weight.new_full((len(weight),), grid.largest_code) for grid in grids])
    zero = torch.zeros_like(largest)
    rounded, carried = torch.empty_like(exact), torch.zeros_like(exact)  # carried: sum_{j > i} L_ji e_j
    reciprocals = factor.diagonal().reciprocal().tolist()
    for end in range(len(exact), 0, -block):
        start = max(0, end - block)
        for column in range(end - 1, start - 1, -1):
            value = torch.add(exact[column], carried[column], alpha=reciprocals[column], out=rounded[column])
            error = exact[column].sub_(value.add_(0.5).floor_().clamp_(zero, largest))
            carried[start:column].addr_(factor[column, start:column], error)
        carried[:start].addmm_(factor[start:end, :start].T, exact[start:end])  # by now `exact` holds errors
    # Contiguous, as weights are that were saved and loaded: products of others are summed in another order.
    codes = torch.empty_like(rounded.T, memory_format=torch.contiguous_format)
    codes[:, order] = rounded.T
    parts = codes.split(len(weight))
    return [(part - grid.zero_point) * grid.scale for part, grid in zip(parts, grids, strict=True)]


def _damp_(matrix: Tensor, share: float) -> Tensor:
    """Add `share` of the matrix's mean diagonal to its diagonal, in place, so that it can be factored."""
    mean = matrix.diagonal().mean().clamp(min=torch.finfo(matrix.dtype).tiny)
    matrix.diagonal().add_(share * mean)
    return matrix
