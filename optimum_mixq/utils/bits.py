# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Widths of units: a pair of weight bits and activation bits, and how it is read and written."""

from typing import Any, NamedTuple, Self

from optimum_mixq.utils.checks import is_whole


SMALLEST_BITS, LARGEST_BITS = 2, 8


class Bits(NamedTuple):
    """Bits of a unit's weights and of its activations. It equals the plain tuple of both."""

    weight: int
    activation: int

    @classmethod
    def of(cls, width: Any, unit: str) -> Self:
        """Return the bits of one number, or of a pair (tuple or list); anything else raises and names `unit`.

        >>> Bits.of(4, "blocks.0.qkv"), Bits.of([4, 8], "blocks.0.qkv")
        (Bits(weight=4, activation=4), Bits(weight=4, activation=8))
        """
        pair = (width, width) if isinstance(width, int) else tuple(width) if isinstance(width, (tuple, list)) else ()
        if len(pair) != 2 or not all(map(is_width, pair)):
            raise ValueError(
                f"Expected {SMALLEST_BITS} to {LARGEST_BITS} bits for '{unit}', as one number or (weight bits, "
                f"activation bits), found {width!r}."
            )
        return cls(*pair)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the bits that a text stands for; what is no such text raises a ValueError.

        >>> Bits.parse("4"), Bits.parse("4/8")
        (Bits(weight=4, activation=4), Bits(weight=4, activation=8))
        """
        numbers = [int(part) for part in text.split("/")]
        return cls.of(numbers[0] if len(numbers) == 1 else numbers, text)

    @property
    def same(self) -> bool:
        """Whether weights and activations have the same number of bits."""
        return self.weight == self.activation

    def __str__(self) -> str:
        """Return the shortest text that `parse` reads.

        >>> str(Bits(4, 4)), str(Bits(4, 8))
        ('4', '4/8')
        """
        return f"{self.weight}" if self.same else f"{self.weight}/{self.activation}"


def is_width(bits: Any) -> bool:
    """Return whether a value is a number of bits that a unit may have."""
    return is_whole(bits, SMALLEST_BITS, LARGEST_BITS)
