# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What a person looks at: tables and pictures of plans."""

from collections.abc import Sequence

from optimum_mixq.artifacts import BitPlan


WIDTH, HEIGHT, MARGIN = 640, 400, 64


def frontier_table(plans: Sequence[BitPlan]) -> str:
    """Return a Markdown table of plans that `allocate` made: what each costs, and its total score."""
    lines = ["| average bits | MB | 10^9 bit operations | score | optimal |", "|---|---|---|---|---|"]
    for plan in plans:
        achieved = plan.provenance["achieved"]
        optimal = "yes" if plan.provenance["proven_optimal"] else "not proven"
        lines.append(
            f"| {achieved['average_bits']:.2f} | {achieved['bytes'] / 1e6:.2f} | {achieved['bops'] / 1e9:.2f} "
            f"| {plan.provenance['objective']:.4g} | {optimal} |"
        )
    return "\n".join(lines)


def draw_frontier(plans: Sequence[BitPlan]) -> str:
    """Return an SVG picture: megabytes to the right, total score upwards, one point per plan."""
    sizes = [plan.provenance["achieved"]["bytes"] / 1e6 for plan in plans]
    scores = [plan.provenance["objective"] for plan in plans]
    places = [
        (_place(size, sizes, MARGIN, WIDTH - 24), _place(score, scores, HEIGHT - MARGIN, 24))
        for size, score in zip(sizes, scores, strict=True)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in sorted(places))
    points = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#2563eb"><title>{size:.2f} MB, {score:.4g}</title></circle>'
        f'<text x="{x + 7:.1f}" y="{y - 7:.1f}" font-size="11">'
        f"{plan.provenance['achieved']['average_bits']:.2f} bits</text>"
        for (x, y), size, score, plan in zip(places, sizes, scores, plans, strict=True)
    ]
    bottom, left = HEIGHT - MARGIN, MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            f'<path d="M{left} 16 V{bottom} H{WIDTH - 16}" fill="none" stroke="#444"/>',
            f'<text x="{left}" y="{bottom + 18}" font-size="11">{min(sizes):.2f}</text>',
            f'<text x="{WIDTH - 60}" y="{bottom + 18}" font-size="11">{max(sizes):.2f} MB</text>',
            f'<text x="{WIDTH / 2 - 60:.0f}" y="{bottom + 40}" font-size="13">size of the saved tensors</text>',
            f'<text x="8" y="{bottom}" font-size="11">{min(scores):.3g}</text>',
            f'<text x="8" y="28" font-size="11">{max(scores):.3g}</text>',
            f'<text x="14" y="{HEIGHT / 2 + 60:.0f}" font-size="13" transform="rotate(-90 14 {HEIGHT / 2 + 60:.0f})">'
            "relevance x sensitivity</text>",
            f'<polyline points="{path}" fill="none" stroke="#2563eb" stroke-width="1.5"/>',
            *points,
            "</svg>",
        ]
    )


def _place(value: float, values: Sequence[float], first: float, last: float) -> float:
    """Return where a value stands between `first` (the least) and `last` (the greatest)."""
    low, high = min(values), max(values)
    return first + (last - first) * ((value - low) / (high - low) if high > low else 0.5)
