# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Checks of single values, for the configurations: each says what was expected and what was found."""

import math
import sys
from collections.abc import Sequence
from typing import Any


def require(holds: bool, name: str, expected: str, found: Any) -> None:
    """Raise a ValueError that names the option unless `holds`."""
    if not holds:
        raise ValueError(f"Expected {name} to be {expected}, found {found!r}.")


def require_one_of(name: str, known: Sequence[str], found: Any) -> None:
    shown = [f"'{value}'" for value in known]
    expected = f"{', '.join(shown[:-1])} or {shown[-1]}" if len(shown) > 1 else shown[0]
    require(found in known, name, expected, found)


def is_whole(value: Any, least: int, most: float = math.inf) -> bool:
    """Return whether a value is an integer from `least` to `most`; True and False are no numbers.

    >>> is_whole(3, 1), is_whole(True, 0), is_whole(3.0, 1)
    (True, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: Any, least: float = -math.inf, most: float = math.inf) -> bool:
    """Return whether a value is a finite number from `least` to `most`; True and False are no numbers.

    >>> is_number(0.5, 0), is_number(math.nan), is_number("1"), is_number(True)
    (True, False, False, False)
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return least <= value <= most and abs(value) <= sys.float_info.max


def is_positive(value: Any) -> bool:
    """Return whether a value is a finite number above zero."""
    return is_number(value, 0) and value > 0
