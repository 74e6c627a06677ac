# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Grids of units as SVG: one row per kind of unit, one column per block, the stronger the greater the value."""

import math
from collections.abc import Collection, Iterable, Mapping
from html import escape

from optimum_mixq.artifacts import BitPlan
from optimum_mixq.reporting.palette import ink_class, opacity


WIDTH = 1000  # of a picture that fills the page, in its own units
CELL_HEIGHT, LABEL_WIDTH = 26, 76
NARROWEST, WIDEST = 38, 130  # cells


def draw_units(
    values: Mapping[str, float], texts: Mapping[str, str], measure: str = "", colour: str = "deep", log: bool = False
) -> str:
    """Return a grid of one number per unit; the legend below tells what the shades stand for, in the given measure.

    `values` and the cells' `texts` are by unit name, such as "blocks.3.fc1".
    """
    grid = _Grid(values)
    scaled = {unit: _log(value) if log else value for unit, value in values.items()}
    low, high = min(scaled.values()), max(scaled.values())
    cells = []
    for unit, value in scaled.items():
        share = (value - low) / (high - low) if high > low else 0.5
        title = f"{unit}: {values[unit]:.4g} {measure}".rstrip()
        text = f'<text x="{grid.middle(unit):g}" y="{grid.baseline(unit):g}" class="cell {ink_class(share, colour)}">'
        shade = grid.rectangle(unit, colour, share)
        cells.append(f"<g><title>{escape(title)}</title>{shade}{text}{escape(texts[unit])}</text></g>")
    legend = _legend(grid, [0, 0.25, 0.5, 0.75, 1], values.values(), measure, colour) if high > low else ""
    return grid.svg(cells, legend, f"{measure or 'Value'} of every layer")


def draw_bits(
    plan: BitPlan, shares: Mapping[int, float], titles: Mapping[str, str], without_weight: Collection[str]
) -> str:
    """Return a grid of bits as "5 / 4", of weights and of activations, each half in the shade of its own bits.

    A unit of `without_weight` has the bits of its operands alone. `shares` gives each width its shade, from 0 to 1,
    and `titles` are what hovering over a unit shows.
    A script may change a cell by its `data-unit`, and the halves by their `data-side`, 0 for weights.
    """
    grid = _Grid(plan.bits)
    cells, place_of = [], {1: (0,), 2: (-11, 11)}
    for unit, bits in plan.bits.items():
        sides = (1,) if unit in without_weight else (0, 1)
        shades = "".join(
            grid.rectangle(unit, "deep", shares[bits[side]], place, len(sides), f' data-side="{side}"')
            for place, side in enumerate(sides)
        )
        numbers = [
            f'<tspan x="{grid.middle(unit) + place_of[len(sides)][place]:g}" class="{ink_class(shares[bits[side]])}" '
            f'data-side="{side}">{bits[side]}</tspan>'
            for place, side in enumerate(sides)
        ]
        slash = f'<tspan x="{grid.middle(unit):g}" class="{ink_class(shares[bits[0]])}" data-side="slash"> / </tspan>'
        text = f'<text y="{grid.baseline(unit):g}" class="cell">{slash.join(numbers)}</text>'
        cells.append(f'<g data-unit="{escape(unit)}"><title>{escape(titles[unit])}</title>{shades}{text}</g>')
    return grid.svg(cells, _widths_legend(grid, shares), "Bits of weights / bits of activations of every layer")


def describe_bits(unit: str, bits: tuple[int | None, int]) -> str:
    """Return what a cell of bits says, in words.

    >>> describe_bits("blocks.0.fc1", (5, 4)), describe_bits("blocks.0.qk", (None, 4))
    ('blocks.0.fc1: weights 5 bits, activations 4 bits', 'blocks.0.qk: both operands 4 bits')
    """
    if bits[0] is None:
        return f"{unit}: both operands {bits[1]} bits"
    return f"{unit}: weights {bits[0]} bits, activations {bits[1]} bits"


def short_block(block: str) -> str:
    """Return "3" for "blocks.3", "1.0" for "stages.1.blocks.0", and "1" for the merging "stages.1".

    >>> short_block("blocks.3"), short_block("stages.1.blocks.0")
    ('3', '1.0')
    """
    return ".".join(part for part in block.split(".") if part.isdigit())


class _Grid:
    """Where each unit's cell lies; the cells are as wide as the page allows."""

    def __init__(self, units: Iterable[str]) -> None:
        names = [unit.rpartition(".")[::2] for unit in units]  # (block, kind)
        self.columns = {block: column for column, block in enumerate(dict.fromkeys(block for block, _ in names))}
        self.rows = {kind: row for row, kind in enumerate(dict.fromkeys(kind for _, kind in names))}
        fitting = (WIDTH - LABEL_WIDTH) / len(self.columns)
        self.cell = min(max(math.floor(fitting), NARROWEST), WIDEST)
        self.width = LABEL_WIDTH + self.cell * len(self.columns)
        self.bottom = CELL_HEIGHT * (len(self.rows) + 1)

    def corner(self, unit: str) -> tuple[float, float]:
        block, _, kind = unit.rpartition(".")
        return LABEL_WIDTH + self.cell * self.columns[block], CELL_HEIGHT * (self.rows[kind] + 1)

    def middle(self, unit: str) -> float:
        return self.corner(unit)[0] + (self.cell - 2) / 2

    def baseline(self, unit: str) -> float:
        return self.corner(unit)[1] + CELL_HEIGHT / 2 + 3

    def rectangle(self, unit: str, colour: str, share: float, place: int = 0, parts: int = 1, more: str = "") -> str:
        x, y = self.corner(unit)
        width = (self.cell - 2) / parts
        return (
            f'<rect x="{x + width * place:g}" y="{y}" width="{width:g}" height="{CELL_HEIGHT - 2}" class="{colour}" '
            f'fill-opacity="{opacity(share)}"{more}/>'
        )

    def svg(self, cells: Iterable[str], legend: str, label: str) -> str:
        height = self.bottom + (28 if legend else 4)
        heads = [
            f'<text x="{LABEL_WIDTH + self.cell * (column + 0.5) - 1:g}" y="18" class="axis middle">'
            f"{escape(short_block(block))}</text>"
            for block, column in self.columns.items()
        ]
        kinds = [
            f'<text x="{LABEL_WIDTH - 8}" y="{CELL_HEIGHT * (row + 1) + CELL_HEIGHT / 2 + 3:g}" class="axis end">'
            f"{escape(kind)}</text>"
            for kind, row in self.rows.items()
        ]
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {height}" class="grid" role="img" '
            f'aria-label="{escape(label)}" style="max-width:{self.width}px;min-width:{0.75 * self.width:.0f}px">'
            + "".join([*heads, *kinds, *cells, legend, "</svg>"])
        )


def _legend(grid: _Grid, shares: list[float], values: Collection[float], measure: str, colour: str) -> str:
    """Return shades from the palest to the strongest, between the least and the greatest value."""
    x, y, side = LABEL_WIDTH + 44, grid.bottom + 8, 14
    squares = "".join(
        f'<rect x="{x + side * step}" y="{y}" width="{side}" height="{side}" class="{colour}" '
        f'fill-opacity="{opacity(share)}"/>'
        for step, share in enumerate(shares)
    )
    return (
        f'<text x="{x - 6}" y="{y + 11}" class="axis end">{min(values):.3g}</text>{squares}'
        f'<text x="{x + side * len(shares) + 6}" y="{y + 11}" class="axis">{max(values):.3g} {escape(measure)}</text>'
    )


def _widths_legend(grid: _Grid, shares: Mapping[int, float]) -> str:
    y, side = grid.bottom + 6, 22
    squares = "".join(
        f'<rect x="{LABEL_WIDTH + side * place}" y="{y}" width="{side - 2}" height="18" class="deep" '
        f'fill-opacity="{opacity(share)}"/><text x="{LABEL_WIDTH + side * place + side / 2 - 1:g}" y="{y + 13}" '
        f'class="cell {ink_class(share)}">{bits}</text>'
        for place, (bits, share) in enumerate(shares.items())
    )
    x = LABEL_WIDTH + side * len(shares) + 6
    return f'{squares}<text x="{x}" y="{y + 13}" class="axis">bits: weights / activations</text>'


def _log(value: float) -> float:
    return math.log10(max(value, 1e-9))
