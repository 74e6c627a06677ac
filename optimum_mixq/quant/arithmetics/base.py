# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What an arithmetic answers, and which one a name stands for."""

from abc import ABC, abstractmethod
from typing import ClassVar, TypeVar

from torch import Tensor

from optimum_mixq.kernels import WeightCodes
from optimum_mixq.quant.grids import UniformGrid
from optimum_mixq.utils.checks import require_one_of


class Arithmetic(ABC):
    """What a layer rounds its weight to, and which integers it multiplies.

    With an input grid of scales s_c and zero points z_c, all arithmetics compute approximations of

        y_o = sum_c s_c (q_c - z_c) v_oc + bias_o,      q_c the input's codes, v the weight.

    An arithmetic has no state.
    """

    name: ClassVar[str]
    # Whether the scales of what a LayerNorm puts out are absorbed in it and its readers: all channels then share one.
    # Where the zero points are absorbed too, the readers need a bias.
    folds_norms: ClassVar[bool]
    # Whether query and key have a grid for each channel, or one for each head.
    attends_by_channel: ClassVar[bool]

    def of_layer(self, weight_bits: int) -> "Arithmetic":
        """Return the arithmetic of a layer whose weight has so many bits."""
        return self

    @abstractmethod
    def bit_operations(self, weight_bits: int, input_bits: int) -> int:
        """Return what one multiplication costs: bits of one operand times bits of the other."""

    @abstractmethod
    def to_grid(self, weight: Tensor, input_scale: Tensor) -> Tensor:
        """Return what the weight's grid is applied to, from the weight (O, C) and the input's scales (C,)."""

    @abstractmethod
    def from_grid(self, values: Tensor, input_scale: Tensor) -> Tensor:
        """Return the weight (O, C) of what `to_grid` returned: its inverse, and linear in each row."""

    @abstractmethod
    def effective_weight(self, values: Tensor, input_scale: Tensor) -> Tensor:
        """Return the weight (O, C) that multiplies the dequantized input, from values (O, C) on the weight's grid.

        Gradients pass straight through.
        """

    @abstractmethod
    def operand(self, codes: Tensor, grid: UniformGrid, input_scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return the integers (O, C), as floats, that multiply the input's codes, and their scale (O, 1).

        `codes` (O, C) are the weight's on `grid` (O, 1). The integers fit int8.
        """

    @abstractmethod
    def weight_codes(self, codes: Tensor, grid: UniformGrid, input_scale: Tensor) -> WeightCodes | None:
        """Return what the operand was made from, for kernels that multiply fewer than 8 bits, or None."""

    def moments_on_grid(self, second_moment: Tensor, input_scale: Tensor) -> Tensor:
        """Return M' (C, C) with w M w^T = w' M' w'^T, where w' is `to_grid` of a row w, from the input's M (C, C)."""
        return self.from_grid(self.from_grid(second_moment.T, input_scale).T, input_scale)


ARITHMETICS: dict[str, Arithmetic] = {}

Kind = TypeVar("Kind", bound=type[Arithmetic])


def register_arithmetic(arithmetic: Kind) -> Kind:
    """Add an arithmetic under its name; of two with the same name, the one registered last is used."""
    ARITHMETICS[arithmetic.name] = arithmetic()
    return arithmetic


def arithmetic_names() -> tuple[str, ...]:
    """Return the names that the option `arithmetic` may have."""
    return tuple(sorted(ARITHMETICS))


def arithmetic_of(name: str) -> Arithmetic:
    """Return the arithmetic of a name; a name that nobody registered raises a ValueError."""
    require_one_of("arithmetic", arithmetic_names(), name)
    return ARITHMETICS[name]
