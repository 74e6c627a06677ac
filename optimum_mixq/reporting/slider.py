# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The stops of the slider along the frontier: each is a plan that was packed, with what was measured of it."""

import json
from dataclasses import dataclass
from html import escape

from optimum_mixq.artifacts import BitPlan
from optimum_mixq.reporting.palette import ink_class, opacity
from optimum_mixq.reporting.pictures import describe_bits
from optimum_mixq.reporting.report import Report
from optimum_mixq.stages.evaluation import Evaluation


@dataclass(frozen=True)
class Stop:
    name: str
    plan: BitPlan
    megabytes: float
    evaluation: Evaluation
    own: bool = False  # the model of the report


def list_stops(report: Report) -> list[Stop]:
    """Return this model and the sizes of the frontier that were measured, the smallest file first."""
    packed = report.comparison.packed
    stops = [Stop(packed.name, report.plan, packed.megabytes, packed.evaluation, own=True)]
    for point in report.measured:
        name = f"{point.average_bits:.2f} bits"
        stops.append(Stop(name, point.plan, point.megabytes, point.evaluation))
    return sorted(stops, key=lambda stop: stop.megabytes)


def shares_of_widths(report: Report) -> dict[int, float]:
    """Return the shade, from 0 to 1, of each width that some stop has, and of those in between."""
    found = {bits for stop in list_stops(report) for pair in stop.plan.bits.values() for bits in pair}
    low, high = min(found), max(found)
    return {bits: (bits - low) / max(high - low, 1) for bits in range(low, high + 1)}


def list_facts(report: Report, stop: Stop) -> list[tuple[str, str]]:
    """Return what was measured of a stop, as names and values."""
    comparison, result = report.comparison, stop.evaluation
    smaller = comparison.float_model.megabytes / stop.megabytes
    facts = [
        ("bits per weight", f"{report.costs.average_bits(stop.plan.bits):.2f}"),
        ("size", f"{stop.megabytes:.2f} MB, {smaller:.1f} x smaller"),
        ("bit operations per image", f"{report.costs.bops(stop.plan.bits) / 1e9:.2f} x 10⁹"),
    ]
    if result.accuracy is not None:
        facts.append((comparison.accuracy_name, f"{100 * result.accuracy:.2f} %"))
    if result.kl is not None:
        facts.append((comparison.divergence_name, f"{result.kl:.4f}"))
    return facts


def draw_facts(report: Report, stop: Stop) -> str:
    facts = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in list_facts(report, stop)
    )
    return f'<dl class="facts" id="facts">{facts}</dl>'


def draw_slider(report: Report) -> str:
    """Return the slider and its data, or nothing where only this model was measured."""
    stops = list_stops(report)
    if len(stops) < 2:
        return ""
    own = next(number for number, stop in enumerate(stops) if stop.own)
    return (
        '<div class="slider"><label for="stop">Size: <b id="stop-name" aria-live="polite">'
        f"{escape(stops[own].name)}</b></label>"
        f'<input id="stop" type="range" min="0" max="{len(stops) - 1}" step="1" value="{own}"/>'
        f'<button type="button" id="stop-own">Back to {escape(stops[own].name)}</button></div>'
        f'<script type="application/json" id="stops">{_as_data(report, stops, own)}</script>'
    )


def _as_data(report: Report, stops: list[Stop], own: int) -> str:
    """Return what `page.js` shows of each stop; "<" is escaped, so that no name ends the script."""
    units = list(report.plan.bits)
    data = {
        "own": own,
        "shades": {bits: [opacity(share), ink_class(share)] for bits, share in shares_of_widths(report).items()},
        "stops": [
            {
                "name": stop.name,
                "bits": [stop.plan.bits[unit] for unit in units],
                "titles": [describe_unit(report, unit, stop.plan) for unit in units],
                "facts": list_facts(report, stop),
            }
            for stop in stops
        ],
    }
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def describe_unit(report: Report, unit: str, plan: BitPlan) -> str:
    """Return what hovering over a unit's bits shows."""
    weights, bits = sum(report.costs.weights[unit]), plan.bits[unit]
    text = describe_bits(unit, (bits[0] if weights else None, bits[1]))
    if weights:
        text += f"; {weights:,} weights in {report.costs.unit_bytes(unit, bits):,} bytes"
    return text
