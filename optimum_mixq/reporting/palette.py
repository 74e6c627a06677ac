# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The colours of a page, light and dark, and which ink can be read on each shade."""

from collections.abc import Mapping


Theme = Mapping[str, str]

LIGHT: Theme = {
    "page": "#f6f7f9", "card": "#ffffff", "ink": "#1a2230", "muted": "#55607a", "line": "#dfe4ec",
    "deep": "#1f4fa8", "warm": "#b4431c", "other": "#67738a",
}  # fmt: skip
DARK: Theme = {
    "page": "#0f1420", "card": "#171e2c", "ink": "#e6eaf2", "muted": "#a3aec2", "line": "#303b50",
    "deep": "#7db0ff", "warm": "#ff9d76", "other": "#8f9bb0",
}  # fmt: skip
PALEST = 0.08  # how much of a colour the palest shade has


def as_variables(theme: Theme) -> str:
    """Return a theme as CSS variables.

    >>> as_variables({"page": "#ffffff", "ink": "#000000"})
    '--page:#ffffff;--ink:#000000'
    """
    return ";".join(f"--{name}:{colour}" for name, colour in theme.items())


def opacity(share: float) -> float:
    """Return how opaque a shade is: the palest for 0, the full colour for 1."""
    return round(PALEST + (1 - PALEST) * share, 3)


def ink_class(share: float, colour: str = "deep") -> str:
    """Return the class of text on a shade: black ("k") or white ("w"), first on the light page, then on the dark one.

    >>> ink_class(0.0), ink_class(1.0)
    ('ink-kw', 'ink-wk')
    """
    return "ink-" + "".join("k" if _is_bright(share, colour, theme) else "w" for theme in (LIGHT, DARK))


def contrast(first: str, second: str) -> float:
    """Return the contrast of two colours, from 1 to 21 (WCAG 2.2, "contrast ratio").

    >>> contrast("#ffffff", "#000000")
    21.0
    """
    low, high = sorted((_luminance(_channels(first)), _luminance(_channels(second))))
    return (high + 0.05) / (low + 0.05)


def _is_bright(share: float, colour: str, theme: Theme) -> bool:
    """Return whether black can be read better than white on a shade of a theme's colour over its cards."""
    full, under, part = _channels(theme[colour]), _channels(theme["card"]), opacity(share)
    mixed = [part * above + (1 - part) * below for above, below in zip(full, under, strict=True)]
    # Black and white have the same contrast where (1.05) / (l + 0.05) = (l + 0.05) / 0.05.
    return _luminance(mixed) > (1.05 * 0.05) ** 0.5 - 0.05


def _channels(colour: str) -> list[float]:
    return [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]


def _luminance(channels: list[float]) -> float:
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
