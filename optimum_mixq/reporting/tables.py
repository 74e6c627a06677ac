# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The tables of a report as HTML, and that of a sweep as Markdown."""

from collections.abc import Iterable, Sequence
from html import escape

from optimum_mixq.artifacts import BitPlan, SensitivityTable
from optimum_mixq.reporting.comparison import Comparison
from optimum_mixq.reporting.report import Layer
from optimum_mixq.stages.evaluation import Evaluation
from optimum_mixq.utils.bits import Bits


Cell = tuple[str, float | None]  # the text, and what the column is sorted by; None comes last


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


def frontier_points(plans: Sequence[BitPlan]) -> list[tuple[float, float, str]]:
    """Return (megabytes, score, label) of plans that `allocate` made, for `draw_frontier`."""
    return [
        (
            plan.provenance["achieved"]["bytes"] / 1e6,
            plan.provenance["objective"],
            f"{plan.provenance['achieved']['average_bits']:.2f} bits",
        )
        for plan in plans
    ]


def contender_table(comparison: Comparison) -> str:
    """Return the table of what was measured of each model; a column that nothing is known of is left out."""
    base = comparison.float_model
    heads = [
        "model", comparison.accuracy_name, "95 % interval", "same as float", comparison.divergence_name, "MB",
        "smaller", "ms per image", "speed",
    ]  # fmt: skip
    rows = []
    for contender in comparison.contenders:
        time = contender.milliseconds
        speed = None if time is None or base.milliseconds is None else base.milliseconds / time
        rows.append([
            contender.name,
            *describe_scores(contender.evaluation),
            f"{contender.megabytes:.2f}",
            f"{base.megabytes / contender.megabytes:.1f} x",
            "" if time is None else f"{time:.2f}",
            "" if speed is None else f"{speed:.1f} x",
        ])  # fmt: skip
    return _table(heads, rows, "Models on the same images")


def measured_table(points: Iterable[tuple[str, float, Evaluation]], comparison: Comparison) -> str:
    """Return the table of (name, megabytes, scores) of the sizes that were packed and measured."""
    heads = [
        "plan", "MB", comparison.accuracy_name, "95 % interval", "same as float", comparison.divergence_name,
    ]  # fmt: skip
    rows = [[name, f"{megabytes:.2f}", *describe_scores(evaluation)] for name, megabytes, evaluation in points]
    return _table(heads, rows, "Sizes that were packed and measured")


def layer_table(layers: Sequence[Layer]) -> str:
    """Return the table of what each unit has and costs, which a script sorts by the `data-value` of its cells."""
    heads = (
        "layer", "weight bits", "activation bits", "weights", "MACs per image", "relevance %", "sensitivity", "bytes",
    )  # fmt: skip
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{escape(text)}</button></th>' for text in heads
    )
    body = "".join(_sortable_row(layer.unit, number, _layer_cells(layer)) for number, layer in enumerate(layers))
    totals = [f"{sum(layer.weights for layer in layers):,}", f"{sum(layer.macs for layer in layers):,}"]
    size = f"{sum(layer.bytes for layer in layers):,}"
    cells = ["", "", *totals, "", "", size]
    foot = '<tr><th scope="row">all layers</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    return (
        '<table class="sortable"><caption class="unseen">Layers</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody><tfoot>{foot}</tfoot></table>"
    )


def sensitivity_table(sensitivity: SensitivityTable) -> str:
    """Return the table of every unit's damage at every width that was measured."""
    widths = measured_bits(sensitivity)
    heads = ["layer", *(describe_width(bits) for bits in widths)]
    rows = [
        [unit, *(f"{row[bits]:.2e}" if row.get(bits) else "" for bits in widths)]
        for unit, row in sensitivity.table.items()
    ]
    return _table(heads, rows, "Sensitivity of every layer")


def float_table(parts: dict[str, int]) -> str:
    rows = [[name, f"{count:,}"] for name, count in parts.items()]
    return _table(["tensors", "numbers"], rows, "What stays in floating point")


def describe_scores(result: Evaluation) -> tuple[str, str, str, str]:
    """Return accuracy, its interval, agreement and divergence as the tables' cells; what is not known is empty."""
    interval = result.accuracy_interval
    return (
        "" if result.accuracy is None else f"{100 * result.accuracy:.2f} %",
        "" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}",
        "" if result.agreement is None else f"{100 * result.agreement:.1f} %",
        "" if result.kl is None else f"{result.kl:.4f}",
    )


def measured_bits(sensitivity: SensitivityTable) -> list[Bits]:
    """Return the bits at which units were measured, without the baseline's."""
    return sorted({bits for row in sensitivity.table.values() for bits in row if bits != sensitivity.baseline})


def describe_width(bits: Bits) -> str:
    """Return the bits that something was measured at, as pages write them.

    >>> describe_width(Bits(4, 4)), describe_width(Bits(4, 8))
    ('4', '4 / 8')
    """
    return str(bits).replace("/", " / ")


def _layer_cells(layer: Layer) -> list[Cell]:
    weight_bits, share, damage = layer.weight_bits, layer.relevance, layer.sensitivity
    return [
        ("" if weight_bits is None else str(weight_bits), weight_bits),
        (str(layer.activation_bits), layer.activation_bits),
        (f"{layer.weights:,}" if layer.weights else "", layer.weights or None),
        (f"{layer.macs:,}", layer.macs),
        ("" if share is None else f"{100 * share:.2f}", share),
        ("" if damage is None else f"{damage:.2e}", damage),
        (f"{layer.bytes:,}" if layer.weights else "", layer.bytes if layer.weights else None),
    ]


def _sortable_row(name: str, number: int, cells: Sequence[Cell]) -> str:
    texts = "".join(
        f"<td{'' if value is None else f' data-value={chr(34)}{value!r}{chr(34)}'}>{escape(text)}</td>"
        for text, value in cells
    )
    return f'<tr><th scope="row" data-value="{number}">{escape(name)}</th>{texts}</tr>'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """Return a table without the columns, after the first, in which every cell is empty."""
    shown = [0, *(column for column in range(1, len(heads)) if any(row[column] for row in rows))]
    head = "".join(f'<th scope="col">{escape(heads[column])}</th>' for column in shown)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(row[column])}</td>" for column in shown[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<table><caption class="unseen">{escape(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )
