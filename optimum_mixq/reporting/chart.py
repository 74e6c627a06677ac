# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The frontier as an SVG chart: what each size of the file allows."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from optimum_mixq.reporting.palette import LIGHT


WIDTH, HEIGHT = 490, 330
LEFT, RIGHT, TOP, BOTTOM = 62, 20, 40, 48  # margins
STEPS = (1, 2, 2.5, 5, 10)

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Mark:
    """A point of the chart. Those of the "path" are joined; `stop` is the slider's place that it belongs to."""

    x: float
    y: float
    label: str
    title: str
    kind: Literal["path", "own", "other"] = "path"
    stop: int | None = None


def draw_frontier(
    points: Sequence[tuple[float, float, str]], measure: str, marked: Sequence[tuple[float, float, str]] = ()
) -> str:
    """Return a picture of its own of a curve of (megabytes, value, label); `marked` points stand out beside it.

    `measure` is what the values are.
    """
    marks = [Mark(x, y, label, f"{label}: {x:.2f} MB, {y:.4g}") for x, y, label in points]
    marks += [Mark(x, y, label, f"{label}: {x:.2f} MB, {y:.4g}", "own") for x, y, label in marked]
    style = (
        f"text{{font:11px system-ui,sans-serif;fill:{LIGHT['muted']}}}.end{{text-anchor:end}}"
        f".middle{{text-anchor:middle}}.rule{{stroke:{LIGHT['line']}}}"
        f".curve{{fill:none;stroke:{LIGHT['deep']};stroke-width:2}}.path{{fill:{LIGHT['deep']}}}"
        f".own{{fill:{LIGHT['warm']}}}"
    )
    return draw_chart(marks, "MB", measure, style=style)


def draw_chart(
    marks: Sequence[Mark],
    x_name: str,
    y_name: str,
    log: bool = False,
    level: tuple[float, str] | None = None,
    style: str = "",
) -> str:
    """Return a chart of the marks, with a horizontal line at `level` (value, label) where one is given.

    A page has the classes of its parts in its own style sheet; a picture that stands alone takes a `style`.
    """
    values = [mark.y for mark in marks] + ([] if level is None else [level[0]])
    across = _Axis([mark.x for mark in marks], LEFT + 8, WIDTH - RIGHT - 8)
    up = _Axis(values, HEIGHT - BOTTOM - 8, TOP + 8, log)
    path = sorted((mark for mark in marks if mark.kind == "path"), key=lambda mark: mark.x)
    line = [(across.place(mark.x), up.place(mark.y)) for mark in path]
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
    rule = [] if level is None else [(LEFT, up.place(level[0])), (WIDTH - RIGHT, up.place(level[0]))]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" class="chart" role="img" '
        f'aria-label="{escape(y_name)} by {escape(x_name)}">',
        f"<style>{style}</style>" if style else "",
        f'<text x="8" y="20" class="axis">{escape(y_name)}</text>',
        *_rules(across, up, x_name),
        *([] if level is None else _level(up.place(level[0]), level[1])),
        f'<polyline points="{places}" class="curve"/>' if len(path) > 1 else "",
        *_draw_marks([(mark, across.place(mark.x), up.place(mark.y)) for mark in marks], line, rule),
        "</svg>",
    ]
    return "".join(parts)


class _Axis:
    """Where values stand between the pixels `first` (the least) and `last` (the greatest)."""

    def __init__(self, values: Sequence[float], first: float, last: float, log: bool = False) -> None:
        self.scale: Callable[[float], float] = _log if log else float
        self.first, self.last, self.log = first, last, log
        self.low, self.high = min(map(self.scale, values)), max(map(self.scale, values))
        self.ends = min(values), max(values)

    def place(self, value: float) -> float:
        share = (self.scale(value) - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.first + (self.last - self.first) * share

    def ticks(self) -> list[float]:
        """Return the values that are written beside the axis."""
        low, high = self.ends
        if not high > low:
            return [low]
        if self.log and high > 4 * max(low, 1e-9):
            powers = range(math.floor(self.low), math.ceil(self.high) + 1)
            factors = (1,) if self.high - self.low > 3 else (1, 2, 5)
            return [f * 10.0**power for power in powers for f in factors if self._holds(f * 10.0**power)]
        return round_ticks(low, high)

    def _holds(self, value: float) -> bool:
        return self.low <= self.scale(value) <= self.high


def round_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers from `low` to `high`, evenly spaced, at most so many.

    >>> round_ticks(0.3, 4.1), round_ticks(88.2, 92.7)
    ([1.0, 2.0, 3.0, 4.0], [89.0, 90.0, 91.0, 92.0])
    """
    decade = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(step * decade for step in STEPS if (high - low) / (step * decade) <= most)
    ticks = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return [float(f"{number * step:.10g}") for number in ticks]


def _rules(across: _Axis, up: _Axis, x_name: str) -> list[str]:
    bottom = HEIGHT - BOTTOM
    parts = [f'<path d="M{LEFT} {bottom}H{WIDTH - RIGHT}" class="rule"/>']
    for tick in up.ticks():
        y = up.place(tick)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" class="rule"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" class="axis end">{tick:.4g}</text>')
    for tick in across.ticks():
        parts.append(f'<text x="{across.place(tick):.1f}" y="{bottom + 18}" class="axis middle">{tick:.4g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    return [*parts, f'<text x="{middle:g}" y="{HEIGHT - 10}" class="axis middle">size of the file, {x_name}</text>']


def _level(y: float, label: str) -> list[str]:
    return [
        f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" class="level"/>',
        f'<text x="{LEFT + 4}" y="{y - 6:.1f}" class="axis">{escape(label)}</text>',
    ]


def _draw_marks(placed: Sequence[tuple[Mark, float, float]], *lines: Sequence[tuple[float, float]]) -> list[str]:
    """Return the marks at their places, each with its label where it covers no mark, no other label and no line."""
    taken: list[Box] = [(x - 7, y - 7, x + 7, y + 7) for _, x, y in placed]
    taken += [(x - 1, y - 1, x + 1, y + 1) for line in lines for x, y in _along(line)]
    parts = []
    for mark, x, y in placed:
        text_x, text_y, side, box = _find_room(mark, x, y, taken)
        taken.append(box)
        shape = {
            "path": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" class="path"/>',
            "own": f'<path d="M{x:.1f} {y - 7:.1f}l7 7l-7 7l-7 -7z" class="own"/>',
            "other": f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9" class="other"/>',
        }[mark.kind]
        stop = "" if mark.stop is None else f' data-stop="{mark.stop}"'
        parts.append(
            f"<g{stop}><title>{escape(mark.title)}</title>{shape}"
            f'<text x="{text_x:.1f}" y="{text_y:.1f}" class="axis {side}">{escape(mark.label)}</text></g>'
        )
    return parts


def _along(line: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Yield points of a line that are at most some pixels apart."""
    for (x, y), (next_x, next_y) in itertools.pairwise(line):
        steps = math.ceil(math.hypot(next_x - x, next_y - y) / 5)
        yield from ((x + (next_x - x) * step / steps, y + (next_y - y) * step / steps) for step in range(steps))


def _find_room(mark: Mark, x: float, y: float, taken: Sequence[Box]) -> tuple[float, float, str, Box]:
    """Return where a mark's label goes, how it is anchored, and the box that it fills."""
    length = 6 * len(mark.label)  # of letters 11.5 pixels high
    places = [
        (x, y - 11, "middle"), (x + 11, y + 4, "start"), (x, y + 20, "middle"), (x - 11, y + 4, "end"),
        (x + 9, y + 18, "start"), (x - 9, y - 10, "end"), (x + 9, y - 10, "start"), (x - 9, y + 18, "end"),
        (x + 9, y - 24, "start"), (x - 9, y + 32, "end"), (x + 9, y + 34, "start"), (x - 9, y - 24, "end"),
    ]  # fmt: skip
    boxes = []
    for text_x, text_y, side in places:
        left = text_x - {"start": 0.0, "middle": length / 2, "end": length}[side]
        boxes.append((left, text_y - 10, left + length, text_y + 2))
    free = [
        number
        for number, box in enumerate(boxes)
        if LEFT < box[0]
        and box[2] < WIDTH
        and box[3] < HEIGHT - BOTTOM
        and not any(_overlap(box, one) for one in taken)
    ]
    chosen = free[0] if free else 0
    return (*places[chosen], boxes[chosen])


def _overlap(first: Box, second: Box) -> bool:
    across = first[0] < second[2] and second[0] < first[2]
    return across and first[1] < second[3] and second[1] < first[3]


def _log(value: float) -> float:
    return math.log10(max(value, 1e-9))
