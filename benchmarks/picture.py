# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Draw docs/images/bits.svg, the bits that a mixed plan gives each layer, from benchmarks/results.

python benchmarks/picture.py
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from common import read_results


PICTURE = Path(__file__).parents[1] / "docs" / "images" / "bits.svg"
MODEL, TARGET, SEED = "vit-small-cifar10", 3, 0
KINDS = {
    "qkv": "query, key, value", "proj": "attention output", "fc1": "MLP, first", "fc2": "MLP, second",
    "qk": "query x key", "av": "attention x value",
}  # fmt: skip
COLOURS = {2: "#e0ecff", 3: "#a8c7fa", 4: "#5b93e6", 5: "#1f5fbf", 6: "#0d3b80"}
CELL, ROW, LEFT, TOP = 30, 26, 132, 84
BLOCKS = 12
GAP = 36  # between the two halves
HALF = CELL * BLOCKS
WIDTH, HEIGHT = LEFT + 2 * HALF + GAP + 20, TOP + ROW * len(KINDS) + 44


def main() -> None:
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(draw(read_plan()), encoding="utf-8")


def read_plan() -> dict[str, list[int]]:
    """Return [weight bits, activation bits] of each unit of the default plan that was measured."""
    rows = read_results("mixed_precision.jsonl")
    wanted = (MODEL, TARGET, SEED, "default", False)
    return next(r["bits"] for r in rows if (r["model"], r["target"], r["seed"], r["plan"], r["decide"]) == wanted)


def draw(plan: Mapping[str, Sequence[int]]) -> str:
    """Return an SVG: bits of weights on the left, of activations on the right; a row per kind, a column per block."""
    right = LEFT + HALF + GAP
    title = f"ViT-S/14 on CIFAR-10, {TARGET} bits per weight on average: which layer gets how many bits"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#334155">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#ffffff"/>',
        _text(20, 28, title, 'font-size="15" font-weight="600" fill="#0f172a"'),
        _text(LEFT, 58, "bits of weights", 'font-weight="600"'),
        _text(right, 58, "bits of activations", 'font-weight="600"'),
    ]
    for block in range(BLOCKS):
        for x in (LEFT, right):
            parts.append(_text(x + CELL * (block + 0.5), TOP - 8, str(block), 'text-anchor="middle" font-size="10"'))
    for row, (kind, name) in enumerate(KINDS.items()):
        y = TOP + ROW * row
        parts.append(_text(LEFT - 8, y + 17, name, 'text-anchor="end"'))
        for block in range(BLOCKS):
            weights, activations = plan[f"blocks.{block}.{kind}"]
            if kind not in ("qk", "av"):  # a product of two activations has no weights
                parts.append(_cell(LEFT + CELL * block, y, weights))
            parts.append(_cell(right + CELL * block, y, activations))
    parts += _legend(sorted({bits for pair in plan.values() for bits in pair}), TOP + ROW * len(KINDS) + 16)
    return "\n".join([*parts, "</svg>\n"])


def _legend(widths: Sequence[int], y: float) -> list[str]:
    parts = [_text(LEFT - 8, y + 14, "bits", 'text-anchor="end"')]
    parts += [_cell(LEFT + CELL * number, y - 4, bits) for number, bits in enumerate(widths)]
    return [
        *parts,
        _text(LEFT + CELL * len(widths) + 12, y + 14, "columns: blocks of the network, from input to output"),
    ]


def _cell(x: float, y: float, bits: int) -> str:
    ink = "#0f172a" if bits < 4 else "#ffffff"
    return f'<rect x="{x}" y="{y}" width="{CELL - 2}" height="{ROW - 2}" rx="3" fill="{COLOURS[bits]}"/>' + _text(
        x + CELL / 2 - 1, y + 16, str(bits), f'text-anchor="middle" fill="{ink}"'
    )


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {style}>{text}</text>'


if __name__ == "__main__":
    main()
