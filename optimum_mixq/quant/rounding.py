# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Rounds the weight of a linear layer so that its output, not the weight, is close: closed forms, no gradients.

`correct_weight` moves the weight so that the layer gives the float output from its quantized input (ridge regression,
as ERQ, arXiv 2407.06794). `round_compensated` rounds column by column and lets later columns make up for the error of
earlier ones (GPTQ, arXiv 2210.17323). Both need only the second moments of the layer's input.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from optimum_mixq.quant.grids import UniformGrid, fake_quantize


@dataclass(frozen=True)
class InputMoments:
    """Moments over the rows x (C,) of a layer's quantized input, and with the float layer's output y (O,)."""

    mean: Tensor  # (C,)      E[x]
    covariance: Tensor  # (C, C)  E[(x - mean) (x - mean)^T]
    target_mean: Tensor  # (O,)     E[y]
    cross: Tensor  # (C, O)  E[(x - mean) (y - target_mean)^T]

    @property
    def second_moment(self) -> Tensor:
        return self.covariance + self.mean[:, None] * self.mean[None, :]


class MomentAccumulator:
    """Gathers `InputMoments` over batches; what it holds does not grow with the number of rows."""

    def __init__(self) -> None:
        self._rows = 0
        self._sums: list[Tensor] = []

    def observe(self, inputs: Tensor, targets: Tensor) -> None:
        x, y = inputs.detach().flatten(0, -2), targets.detach().flatten(0, -2)  # (N, C), (N, O)
        sums = [x.sum(0), x.T @ x, y.sum(0), x.T @ y]
        self._rows += len(x)
        self._sums = sums if not self._sums else [old.add_(new) for old, new in zip(self._sums, sums, strict=True)]

    def result(self) -> InputMoments:
        x, xx, y, xy = (total / self._rows for total in self._sums)
        return InputMoments(x, xx - x[:, None] * x[None, :], y, xy - x[:, None] * y[None, :])


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
    change = torch.cholesky_solve(rest, torch.linalg.cholesky(_damped(matrix, ridge))).T
    corrected = weight + change
    return corrected, None if bias is None else moments.target_mean - corrected @ moments.mean


def round_compensated(
    weight: Tensor, grid: UniformGrid, second_moment: Tensor, damping: float = 0.01, block: int = 128
) -> Tensor:
    """Return `weight` (O, C) rounded to `grid` (O, 1), column after column, largest input first.

    The error of column i, divided by U_ii, is taken from every later column j in proportion U_ij, U being the upper
    Cholesky factor of the inverse of the inputs' second moment (C, C) (GPTQ, section 3.3).
    """
    order = second_moment.diagonal().argsort(descending=True)
    system = _damped(second_moment[order][:, order], damping)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(system))
    upper = torch.linalg.cholesky(inverse, upper=True)
    remaining = weight[:, order].T.contiguous()  # (C, O): a column of the weight is one contiguous row here
    row_grid = UniformGrid(grid.scale[:, 0], grid.zero_point[:, 0], grid.bits)
    columns = len(remaining)
    for start in range(0, columns, block):
        end = min(start + block, columns)
        errors = torch.empty_like(remaining[start:end])
        for column in range(start, end):
            rounded = fake_quantize(remaining[column], row_grid)
            error = (remaining[column] - rounded) / upper[column, column]
            remaining[column] = rounded
            remaining[column + 1 : end].addr_(upper[column, column + 1 : end], error, alpha=-1)
            errors[column - start] = error
        remaining[end:].addmm_(upper[start:end, end:].T, errors, alpha=-1)
    result = torch.empty_like(weight)
    result[:, order] = remaining.T
    return result


def _damped(matrix: Tensor, share: float) -> Tensor:
    """Return the matrix with `share` of its mean diagonal added to the diagonal, so that it can be factored."""
    diagonal = matrix.diagonal().mean().clamp(min=torch.finfo(matrix.dtype).tiny)
    return matrix + share * diagonal * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
