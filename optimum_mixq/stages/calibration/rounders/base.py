# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What a rounder answers, and which one a configuration asks for."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

from torch import Tensor

from optimum_mixq.quant.grids import UniformGrid
from optimum_mixq.stages.calibration.observers import minmax_weight_grid, searched_weight_grid
from optimum_mixq.utils.checks import require_one_of


@dataclass(frozen=True)
class RoundedWeight:
    """A weight (O, C) that has values of its grid (O, 1) only."""

    values: Tensor
    grid: UniformGrid


class RounderOptions(Protocol):
    """The options of `CalibrationOptions` that rounders read. The configuration asks here for the rounders' names."""

    @property
    def rounder(self) -> str | None: ...

    @property
    def compensation(self) -> bool: ...

    @property
    def weight_search(self) -> bool: ...


class Rounder(ABC):
    """One way to round the weight of a layer, or of layers that read the same input, stacked."""

    name: ClassVar[str]

    def __init__(self, options: RounderOptions) -> None:
        self.options = options

    @abstractmethod
    def round(self, weight: Tensor, bits: int, moment: Tensor) -> RoundedWeight:
        """Return a weight (O, C) on a grid of so many bits.

        `moment` (C, C) holds the second moments of the input that the weight multiplies: a rounding error e (O, C)
        costs the layer's output trace(e moment e^T). They are taken about the mean if the layer has a bias, since the
        bias then absorbs the error's mean.
        """

    def round_to_each(self, weight: Tensor, widths: Sequence[int], moment: Tensor) -> list[RoundedWeight]:
        """Return what `round` returns for each of the widths; a rounder may share work between them."""
        return [self.round(weight, bits, moment) for bits in widths]

    def choose_grid(self, weight: Tensor, bits: int, moment: Tensor) -> UniformGrid:
        """Return a grid (O, 1) for the weight: searched if the options ask for it, else from minimum to maximum."""
        if self.options.weight_search:
            return searched_weight_grid(weight, bits, moment.diagonal())
        return minmax_weight_grid(weight, bits)


ROUNDERS: dict[str, type[Rounder]] = {}

Kind = TypeVar("Kind", bound=type[Rounder])


def register_rounder(rounder: Kind) -> Kind:
    """Add a rounder under its name; of two with the same name, the one registered last is used."""
    ROUNDERS[rounder.name] = rounder
    return rounder


def rounder_names() -> tuple[str, ...]:
    """Return the names that the option `rounder` may have."""
    return tuple(sorted(ROUNDERS))


def rounder_of(options: RounderOptions) -> Rounder:
    """Return the rounder that is named; where none is, `compensation` decides between the two that are built in."""
    name = options.rounder or ("compensated" if options.compensation else "nearest")
    require_one_of("rounder", rounder_names(), name)
    return ROUNDERS[name](options)
