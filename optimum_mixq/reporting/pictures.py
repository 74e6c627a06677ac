# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""SVG and PNG pictures of plans and measurements, made of text alone so that a report needs no other file."""

import base64
import io
import math
from collections.abc import Collection, Mapping, Sequence
from html import escape

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


WIDTH, HEIGHT, MARGIN = 640, 400, 64
CELL_WIDTH, CELL_HEIGHT, LABEL_WIDTH = 38, 24, 76
PALE, DARK, WARM = (239, 246, 255), (30, 64, 175), (180, 40, 20)

Colour = tuple[int, int, int]


def draw_units(
    values: Mapping[str, float],
    texts: Mapping[str, str],
    dark: Colour = DARK,
    log: bool = False,
    titles: Mapping[str, str] | None = None,
    measure: str = "",
) -> str:
    """Return a grid: one row per kind of unit, one column per block, the darker the greater the value.

    `values`, the cells' `texts` and the `titles` that hovering shows (by default the number) are by unit name, such as
    "blocks.3.fc1". The legend below tells what the palest and the darkest colour stand for, in the given `measure`.
    """
    blocks = list(dict.fromkeys(unit.rpartition(".")[0] for unit in values))
    kinds = list(dict.fromkeys(unit.rpartition(".")[2] for unit in values))
    scaled = {unit: _log(value) if log else value for unit, value in values.items()}
    low, high = min(scaled.values()), max(scaled.values())
    width = LABEL_WIDTH + CELL_WIDTH * len(blocks) + 4
    height = CELL_HEIGHT * (len(kinds) + 2) + 8
    parts = [_svg_start(width, height)]
    for column, block in enumerate(blocks):
        x = LABEL_WIDTH + CELL_WIDTH * (column + 0.5)
        parts.append(f'<text x="{x:.0f}" y="16" class="axis" text-anchor="middle">{escape(_short(block))}</text>')
    for row, kind in enumerate(kinds):
        y = CELL_HEIGHT * (row + 1)
        parts.append(f'<text x="{LABEL_WIDTH - 8}" y="{y + 16}" class="axis" text-anchor="end">{escape(kind)}</text>')
        for column, block in enumerate(blocks):
            unit = f"{block}.{kind}"
            if unit in values:
                share = (scaled[unit] - low) / (high - low) if high > low else 0.5
                title = f"{unit}: {titles[unit] if titles else format(values[unit], '.4g')}"
                parts.append(_cell(LABEL_WIDTH + CELL_WIDTH * column, y, share, texts[unit], title, dark))
    if high > low:
        parts.append(_legend(CELL_HEIGHT * (len(kinds) + 1) + 8, values.values(), dark, measure))
    return "".join([*parts, "</svg>"])


def draw_frontier(points: Sequence[tuple[float, float, str]], marked: Sequence[tuple[float, float, str]] = ()) -> str:
    """Return a curve of (megabytes, score, label), megabytes to the right; `marked` points stand out beside it."""
    everything = [*points, *marked]
    sizes, scores = [point[0] for point in everything], [point[1] for point in everything]

    def place(size: float, score: float) -> tuple[float, float]:
        return _place(size, sizes, MARGIN + 12, WIDTH - 56), _place(score, scores, HEIGHT - MARGIN - 8, 32)

    path = " ".join("{:.1f},{:.1f}".format(*place(size, score)) for size, score, _ in sorted(points))
    bottom, left, middle = HEIGHT - MARGIN, MARGIN, HEIGHT / 2 + 60
    return "".join(
        [
            _svg_start(WIDTH, HEIGHT),
            f'<path d="M{left} 16 V{bottom} H{WIDTH - 16}" fill="none" stroke="#94a3b8"/>',
            f'<text x="{left}" y="{bottom + 18}" class="axis">{min(sizes):.2f}</text>',
            f'<text x="{WIDTH - 16}" y="{bottom + 18}" class="axis" text-anchor="end">{max(sizes):.2f} MB</text>',
            f'<text x="{WIDTH / 2:.0f}" y="{bottom + 40}" class="axis" text-anchor="middle">size of the file</text>',
            f'<text x="{left - 6}" y="{bottom}" class="axis" text-anchor="end">{min(scores):.3g}</text>',
            f'<text x="{left - 6}" y="36" class="axis" text-anchor="end">{max(scores):.3g}</text>',
            f'<text x="14" y="{middle:.0f}" class="axis" transform="rotate(-90 14 {middle:.0f})">'
            "relevance x sensitivity</text>",
            f'<polyline points="{path}" fill="none" stroke="#2563eb" stroke-width="1.5"/>',
            *(
                _point(place(size, score), f"{size:.2f} MB, {score:.4g}", label, "#2563eb")
                for size, score, label in points
            ),
            *(
                _point(place(size, score), f"{size:.2f} MB, {score:.4g}", label, "#dc2626", left=True)
                for size, score, label in marked
            ),
            "</svg>",
        ]
    )


def draw_heat(pixels: Tensor, relevance: Tensor, side: int = 160) -> str:
    """Return a PNG as a data address: an image (C, H, W) and its relevance (H, W), red for, blue against."""
    picture = pixels.float().mean(0) if len(pixels) != 3 else pixels.float()
    low, high = picture.amin(), picture.amax()
    picture = ((picture - low) / (high - low).clamp(min=1e-12)).expand(3, *picture.shape[-2:])
    strength = F.avg_pool2d(relevance[None, None].float(), 3, 1, 1)[0, 0]
    strength = strength / strength.abs().quantile(0.99).clamp(min=1e-30)
    positive, negative = strength.clamp(0, 1), (-strength).clamp(0, 1)
    pale = 0.35 + 0.65 * picture.mean(0)
    heat = torch.stack([pale * (1 - negative), pale * (1 - positive - negative).clamp(min=0), pale * (1 - positive)])
    both = torch.cat([picture, heat], -1)  # (3, H, 2 W)
    image = Image.fromarray((both * 255).round().byte().permute(1, 2, 0).contiguous().numpy())
    image = image.resize((2 * side, side), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _svg_start(width: float, height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="system-ui, sans-serif"><style>.axis{font-size:11px;fill:#475569}.cell{font-size:11px}</style>'
    )


def _cell(x: float, y: float, share: float, text: str, title: str, dark: Colour) -> str:
    ink = "#fff" if share > 0.5 else "#0f172a"
    return (
        f'<g><title>{escape(title)}</title><rect x="{x}" y="{y}" width="{CELL_WIDTH - 2}" height="{CELL_HEIGHT - 2}" '
        f'rx="3" fill="{_shade(share, dark)}"/><text x="{x + CELL_WIDTH / 2 - 1}" y="{y + 15}" class="cell" '
        f'text-anchor="middle" fill="{ink}">{escape(text)}</text></g>'
    )


def _legend(y: float, values: Collection[float], dark: Colour, measure: str) -> str:
    """Return five colours from the palest to the darkest, between the least and the greatest value."""
    x, side = LABEL_WIDTH, CELL_HEIGHT / 2
    squares = "".join(
        f'<rect x="{x + 44 + side * step}" y="{y}" width="{side}" height="{side}" fill="{_shade(step / 4, dark)}"/>'
        for step in range(5)
    )
    return (
        f'<text x="{x + 38}" y="{y + 10}" class="axis" text-anchor="end">{min(values):.3g}</text>{squares}'
        f'<text x="{x + 50 + 5 * side}" y="{y + 10}" class="axis">{max(values):.3g} {escape(measure)}</text>'
    )


def _shade(share: float, dark: Colour) -> str:
    red, green, blue = (round(pale + share * (full - pale)) for pale, full in zip(PALE, dark, strict=True))
    return f"rgb({red},{green},{blue})"


def _point(place: tuple[float, float], title: str, label: str, colour: str, left: bool = False) -> str:
    x, y = place
    text_x, text_y, anchor = (x - 8, y + 4, "end") if left else (x + 7, y - 7, "start")
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{escape(title)}</title></circle>'
        f'<text x="{text_x:.1f}" y="{text_y:.1f}" class="axis" text-anchor="{anchor}">{escape(label)}</text>'
    )


def _place(value: float, values: Sequence[float], first: float, last: float) -> float:
    """Return where a value stands between `first` (the least) and `last` (the greatest)."""
    low, high = min(values), max(values)
    return first + (last - first) * ((value - low) / (high - low) if high > low else 0.5)


def _log(value: float) -> float:
    return math.log10(max(value, 1e-9))


def _short(block: str) -> str:
    """Return "3" for "blocks.3", "1.0" for "stages.1.blocks.0", and "1" for the merging "stages.1".

    >>> _short("blocks.3"), _short("stages.1.blocks.0")
    ('3', '1.0')
    """
    return ".".join(part for part in block.split(".") if part.isdigit())
