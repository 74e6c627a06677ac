# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The first sections of a report's page: what came out, and which layer got how many bits.

Each is a function that returns its HTML, or "" where a report has nothing for it (`page.SECTIONS`).
"""

import math
from collections.abc import Callable
from html import escape

from optimum_mixq.reporting.chart import Mark, draw_chart
from optimum_mixq.reporting.markup import definitions, section, tiles, wide
from optimum_mixq.reporting.pictures import draw_bits
from optimum_mixq.reporting.report import Report
from optimum_mixq.reporting.slider import (
    Stop,
    describe_unit,
    draw_facts,
    draw_slider,
    list_stops,
    shares_of_widths,
)
from optimum_mixq.reporting.tables import contender_table, frontier_points, layer_table, measured_table
from optimum_mixq.stages.evaluation import Evaluation


KINDS = {
    "qkv": "query, key and value projections, which read the same LayerNorm",
    "q": "query projection, where keys and values are made from fewer tokens",
    "kv": "key and value projections, which read the same reduced tokens",
    "qk": "product of queries and keys, of two activations",
    "av": "product of attention and values, of two activations",
    "proj": "output projection of attention",
    "fc1": "first layer of the MLP",
    "fc2": "second layer of the MLP",
    "reduction": "merging of patches between two stages",
}
SAME_SPEED = 1.05  # ratios of times nearer to one than this are noise


def headline(report: Report) -> str:
    facts = [(f"{_smaller(report):.1f} x", f"smaller: {_from_to(report)} MB"), *_speed(report), *_accuracy(report)]
    subtitle = f"{report.title.removeprefix(report.model).lstrip(', ').capitalize()} · {report.origin[0]}"
    lines = "<br/>".join(escape(line) for line in report.origin[1:] if not line.startswith("Made by"))
    return (
        f'<header><h1>{escape(report.model)}</h1><p class="subtitle">{escape(subtitle)}'
        + (f"<br/>{lines}" if lines else "")
        + f"</p>{tiles(facts)}</header>"
    )


def comparison(report: Report) -> str:
    return section("Float, uniform, mixed", _comparison_note(report), wide(contender_table(report.comparison)))


def bits(report: Report) -> str:
    """Draw the bits of every layer, which the slider changes to those of the other sizes that were measured."""
    own = next(stop for stop in list_stops(report) if stop.own)
    titles = {unit: describe_unit(report, unit, report.plan) for unit in report.plan.bits}
    products = [unit for unit, counts in report.costs.weights.items() if not counts]
    picture = draw_bits(report.plan, shares_of_widths(report), titles, products)
    note = (
        "Each column is a block of the network, from input to output. 5 / 4 stands for weights of 5 bits and "
        "activations of 4; qk and av multiply two activations. Outside the plan: "
        f"{report.ends}."
    )
    if report.measured:
        note += " The slider shows the bits at other sizes, each of which was packed and measured."
    return section("Bits of every layer", note, draw_slider(report) + draw_facts(report, own) + wide(picture))


def legend(report: Report) -> str:
    kinds = dict.fromkeys(unit.rpartition(".")[2] for unit in report.plan.bits)
    terms = [(kind, KINDS[kind]) for kind in kinds if kind in KINDS]
    agreement = report.comparison.packed.evaluation.agreement
    terms += [
        ("5 / 4", "bits of weights / bits of activations"),
        ("uniform", "the same bits for every layer, calibrated on the same images"),
        *([] if agreement is None else [("same as float", "share of predictions that are the float model's")]),
        (report.comparison.divergence_name, "how far the outputs are from the float model's, a mean over images"),
        ("95 % interval", "what the images leave open (Wilson)"),
        ("MACs", "multiply-accumulates; times the bits of both operands they are bit operations"),
    ]
    if report.relevance is not None:
        terms.append(
            ("relevance", "share of the model's answer that passes through a layer, by relevance propagation")
        )
    if report.sensitivity is not None:
        terms.append(("sensitivity", "how much the output changes when one layer alone is at these bits"))
    return section("Legend", "", definitions(terms, "legend"))


def frontier(report: Report) -> str:
    """Draw what each size allows: measured where sizes were packed, else as the score that was predicted."""
    if report.measured:
        return section("Size against accuracy", _frontier_note(report), _measured_charts(report))
    if not report.predicted:
        return ""
    achieved, marks = report.plan.provenance.get("achieved"), []
    for x, y, label in frontier_points(report.predicted):
        marks.append(Mark(x, y, label.removesuffix(" bits"), f"{label}: {x:.2f} MB, score {y:.4g}"))
    if achieved is not None and report.score is not None:
        size = achieved["bytes"] / 1e6
        marks.append(Mark(size, report.score, "this model", f"{size:.2f} MB, score {report.score:.4g}", "own"))
    note = (
        "The least total score that each size allows, predicted from the measurements of single layers. Of several "
        "plans the one nearest to the float model is kept, which need not be the one of least score."
    )
    name = f"score: {report.score_name}"
    return section("Frontier", note, f'<div class="charts">{draw_chart(marks, "MB", name)}</div>')


def layers(report: Report) -> str:
    note = "A click on a column's heading sorts by it. Sensitivity is that at the layer's own bits."
    if report.sensitivity is None or report.relevance is None:
        note = "A click on a column's heading sorts by it. What was not measured is left empty."
    table = f'<div class="scroll" role="region" aria-label="Layers" tabindex="0">{layer_table(report.layers())}</div>'
    return section("Layer by layer", note, table)


def _smaller(report: Report) -> float:
    return report.comparison.float_model.megabytes / report.comparison.packed.megabytes


def _from_to(report: Report) -> str:
    return f"{report.comparison.packed.megabytes:.2f} instead of {report.comparison.float_model.megabytes:.2f}"


def _speed(report: Report) -> list[tuple[str, str]]:
    """Return the tile on speed; a model that is slower has one only where the reason is known."""
    speedup = report.comparison.speedup
    if speedup is None:
        return []
    if speedup > SAME_SPEED:
        before, after = report.comparison.float_model.milliseconds, report.comparison.packed.milliseconds
        return [(f"{speedup:.1f} x", f"as fast: {after:.2f} instead of {before:.2f} ms per image")]
    if speedup < 1 / SAME_SPEED and report.is_small:
        return [(f"{1 / speedup:.1f} x", "slower: a model this small is all overhead, larger ones gain speed")]
    return []


def _accuracy(report: Report) -> list[tuple[str, str]]:
    before, after = report.comparison.float_model.evaluation, report.comparison.packed.evaluation
    name = report.comparison.accuracy_name
    if before.accuracy is not None and after.accuracy is not None:
        change = 100 * (after.accuracy - before.accuracy)
        told = f"{100 * before.accuracy:.2f} % to {100 * after.accuracy:.2f} % on {after.images} images"
        return [(f"{change:+.2f}", f"points of {name}: {told}")]
    if after.agreement is not None:
        return [(f"{100 * after.agreement:.1f} %", f"same prediction as float on {after.images} images")]
    return [] if after.kl is None else [(f"{after.kl:.3g}", report.comparison.divergence_name)]


def _comparison_note(report: Report) -> str:
    """Return where the table's numbers come from, and how mixed bits stand to uniform ones, in words."""
    found = report.comparison
    sentences = [f"{found.describe_images()}. {found.describe_selection()} {found.machine}."]
    last = found.packed.evaluation
    for uniform in found.contenders[1:-1]:
        other = uniform.evaluation
        if last.kl is not None and other.kl:
            sentences.append(f"The distance to float is {last.kl / other.kl:.2f} times that of {uniform.name}.")
        if last.accuracy_interval is not None and other.accuracy_interval is not None:
            (low, high), (other_low, other_high) = last.accuracy_interval, other.accuracy_interval
            if low <= other_high and other_low <= high:
                name = found.accuracy_name
                sentences.append(f"The intervals of their {name} overlap: so few images do not tell which is better.")
    if found.speedup is not None and found.speedup <= SAME_SPEED:
        sentences.append(_why_not_faster(report))
    return " ".join(sentences)


def _why_not_faster(report: Report) -> str:
    if report.is_small:
        return (
            "It is not faster than float here, because a model this small is all overhead: most of a forward is spent "
            "around the products that are integers."
        )
    return (
        "It is not faster than float here: integer products need a processor with instructions for them, and a busy "
        "machine blurs the times."
    )


def _frontier_note(report: Report) -> str:
    text = (
        f"{len(report.measured)} plans from the fewest to the most bits, each packed and run on the same images as "
        "the models above. A point is labelled with its average bits per weight."
    )
    if report.trained:
        text += " They are calibrated; this model was trained as well."
    return text


def _measured_charts(report: Report) -> str:
    found, stops = report.comparison, list_stops(report)
    level, charts = found.float_model.evaluation.accuracy, []
    if level is not None:
        marks = _marks(report, lambda result: 100 * (result.accuracy or 0.0))
        label = f"float {100 * level:.2f} %"
        charts.append(draw_chart(marks, "MB", f"{found.accuracy_name}, %", level=(100 * level, label)))
    marks = _marks(report, lambda result: result.kl or 0.0)
    if marks:
        charts.append(draw_chart(marks, "MB", f"{found.divergence_name}, logarithmic", log=True))
    table = measured_table([(_name_row(report, stop), stop.megabytes, stop.evaluation) for stop in stops], found)
    return f'{_key(report)}<div class="charts">{"".join(charts)}</div>{wide(table)}'


def _name_row(report: Report, stop: Stop) -> str:
    return f"{stop.name}, {report.costs.average_bits(stop.plan.bits):.2f} bits" if stop.own else stop.name


def _marks(report: Report, value_of: Callable[[Evaluation], float]) -> list[Mark]:
    """Return the marks of all stops and of the uniform model, at their sizes and values, where these are finite."""
    marks = [
        _mark_stop(report, stop, number, value_of(stop.evaluation)) for number, stop in enumerate(list_stops(report))
    ]
    for uniform in report.contenders[1:-1]:
        value = value_of(uniform.evaluation)
        title = f"{uniform.name}: {uniform.megabytes:.2f} MB, {value:.4g}"
        marks.append(Mark(uniform.megabytes, value, uniform.name, title, "other"))
    return [mark for mark in marks if math.isfinite(mark.y)]


def _mark_stop(report: Report, stop: Stop, number: int, value: float) -> Mark:
    title = f"{stop.name}: {stop.megabytes:.2f} MB, {value:.4g}"
    if stop.own:
        return Mark(stop.megabytes, value, stop.name, title, "own", number)
    return Mark(stop.megabytes, value, f"{report.costs.average_bits(stop.plan.bits):.2f}", title, "path", number)


def _key(report: Report) -> str:
    """Return what the marks of the charts stand for."""
    shapes = [
        ('<circle cx="8" cy="8" r="4.5" class="path"/>', "best plan of its size, calibrated and packed"),
        ('<path d="M8 1l7 7l-7 7l-7 -7z" class="own"/>', report.comparison.packed.name),
        *(('<rect x="3" y="3" width="10" height="10" class="other"/>', one.name) for one in report.contenders[1:-1]),
    ]
    return (
        '<ul class="key">'
        + "".join(
            f'<li><svg viewBox="0 0 16 16" aria-hidden="true">{shape}</svg>{escape(text)}</li>'
            for shape, text in shapes
        )
        + "</ul>"
    )
