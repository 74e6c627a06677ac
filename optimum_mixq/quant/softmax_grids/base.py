# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What a softmax grid answers, and which one a name stands for."""

from abc import ABC, abstractmethod
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from optimum_mixq.utils.checks import require_one_of


class SoftmaxGrid(ABC):
    """The numbers in [0, 1], at most 2^bits, that exp(score - row maximum) is rounded to; 0 and 1 are among them.

    `setting` tells apart the grids of one kind and width; calibration chooses one for each attention.

    # Unlike the papers: the grid is applied before the division by the row's sum, not after it. So the largest weight
    # of each row is exact, no range has to be calibrated, and the rows still sum to one.
    """

    name: ClassVar[str]

    def __init__(self, bits: int, setting: int = 0) -> None:
        self.bits, self.setting = bits, setting

    @classmethod
    def settings(cls, bits: int) -> tuple[int, ...]:
        """Return what calibration chooses from; nothing where there is one grid for each width."""
        return ()

    @property
    def steps(self) -> float | None:
        """Return the steps per octave of a logarithmic grid, which kernels compute in one pass; None for others."""
        return None

    @property
    def score_factor(self) -> float:
        """Return what scores are multiplied by for `round_` and `round`. Callers may do it where it costs nothing."""
        return 1.0

    @abstractmethod
    def round_(self, scores: Tensor) -> Tensor:
        """Turn multiplied scores (..., T) in place into exp(score - row maximum) on the grid."""

    @abstractmethod
    def round(self, scores: Tensor) -> Tensor:
        """Return the same of operators that all inference engines have, and leave the scores as they are."""

    def exponentials(self, scores: Tensor) -> Tensor:
        """Return exp(score - row maximum) (..., T) on the grid, with a straight-through gradient."""
        exact = scores.detach().to(torch.promote_types(scores.dtype, torch.float32), copy=True)
        rounded = self.round_(exact.mul_(self.score_factor)).to(scores.dtype)
        if not scores.requires_grad:
            return rounded
        smooth = torch.exp(scores - scores.detach().amax(-1, keepdim=True))
        return smooth + (rounded - smooth).detach()

    def softmax(self, scores: Tensor) -> Tensor:
        """Return softmax(scores) (..., T) of exponentials on the grid; rows sum to one."""
        rounded = self.exponentials(scores)
        return rounded / rounded.sum(-1, keepdim=True)


SOFTMAX_GRIDS: dict[str, type[SoftmaxGrid]] = {}

Kind = TypeVar("Kind", bound=type[SoftmaxGrid])


def register_softmax_grid(grid: Kind) -> Kind:
    """Add a softmax grid under its name; of two with the same name, the one registered last is used."""
    SOFTMAX_GRIDS[grid.name] = grid
    return grid


def softmax_grid_names() -> tuple[str, ...]:
    """Return the names that the option `softmax` may have."""
    return tuple(sorted(SOFTMAX_GRIDS))


def softmax_grid_of(name: str) -> type[SoftmaxGrid]:
    """Return the softmax grid of a name; a name that nobody registered raises a ValueError."""
    require_one_of("softmax", softmax_grid_names(), name)
    return SOFTMAX_GRIDS[name]
