# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The further sections of a report's page: what the bits were chosen from, and what the models do on single images."""

from html import escape

from optimum_mixq.artifacts import SensitivityTable
from optimum_mixq.reporting.gallery import Disagreement, HeatMap
from optimum_mixq.reporting.markup import folded, picture, section, wide
from optimum_mixq.reporting.photos import LARGEST_PNG, draw_heat, draw_photo
from optimum_mixq.reporting.pictures import draw_units
from optimum_mixq.reporting.report import Report
from optimum_mixq.reporting.tables import describe_width, float_table, measured_bits, sensitivity_table
from optimum_mixq.reporting.wording import describe_certainty
from optimum_mixq.utils.bits import Bits


def disagreements(report: Report) -> str:
    images, agreement = report.comparison.packed.evaluation.images, report.comparison.packed.evaluation.agreement
    if agreement is None:
        note = "The images on which the outputs of the two models are furthest apart."
    elif not report.disagreeing:
        note = f"The two models give the same answer on all {images} images."
    else:
        note = f"The two models give different answers on {report.disagreeing} of {images} images."
        if len(report.disagreements) < report.disagreeing:
            note += " These are the ones on which they are furthest apart."
    # Numbers do not show how far apart they are: where there are no predictions, the distance is told.
    found = report.comparison
    distance = found.divergence_name if found.packed.evaluation.agreement is None else None
    figures = "".join(_draw_disagreement(entry, distance) for entry in report.disagreements)
    return section("Where float and packed disagree", note, f'<div class="maps pairs">{figures}</div>')


def heat_maps(report: Report) -> str:
    if not report.heat_maps:
        return ""
    figures = "".join(map(_draw_heat_map, report.heat_maps))
    note = "Where relevance of the float model's prediction comes from: red speaks for the answer, blue against it."
    return section("What the model looks at", note, f'<div class="maps">{figures}</div>')


def relevance(report: Report) -> str:
    if report.relevance is None:
        return ""
    shares = {unit: 100 * share for unit, share in report.relevance.scores.items()}
    grid = draw_units(shares, {unit: f"{share:.1f}" for unit, share in shares.items()}, "% of relevance")
    note = (
        f"Per cent of the relevance that passes through each layer, a mean of {report.relevance.images} images. "
        f"Relevance is conserved to {report.relevance.conservation_error:.0e}."
    )
    return section("Relevance", note, wide(grid))


def sensitivity(report: Report) -> str:
    found = report.sensitivity
    if found is None:
        return ""
    note = (
        f"What it costs the network ({found.metric}) to have one layer at fewer bits and all others at "
        f"{describe_width(found.baseline)}, on {found.images} images. Shades are logarithmic."
    )
    note += "".join(f" {line[0].upper()}{line[1:]}." for line in describe_certainty(report.plan))
    grids = "".join(_draw_damage(found, bits) for bits in _fewest_bits(found))
    return section("Sensitivity", note, grids + folded("All widths", wide(sensitivity_table(found))))


def float_parts(report: Report) -> str:
    note = "LayerNorm, the sums of softmax, GELU and residual additions compute in floating point as well."
    return section("What stays float", note, folded("List of tensors", wide(float_table(report.float_parts))))


def recipe(report: Report) -> str:
    commands = [line.removeprefix("Made by: ") for line in report.origin if line.startswith("Made by: ")]
    if not commands:
        return ""
    return section("How to make it again", "", f"<pre><code>{escape(commands[0])}</code></pre>")


def _draw_disagreement(found: Disagreement, distance: str | None) -> str:
    label = f"<p>labelled {escape(found.label)}</p>" if found.label is not None else ""
    answers = "".join(
        f"<dt>{name}</dt>" + "".join(f"<dd>{escape(part).replace(' %', '&nbsp;%')}</dd>" for part in answer)
        for name, answer in (("float", found.float_answer), ("packed", found.packed_answer))
    )
    if distance is not None:
        answers += f"<dt>{escape(distance)}</dt><dd>{found.divergence:.3g}</dd>"
    name = "Image" if found.label is None else f"Image labelled {found.label}"
    image = picture(draw_photo(found.pixels), name, found.pixels.shape[1] <= LARGEST_PNG)
    return f'<figure class="side">{image}<figcaption>{label}<dl class="answers">{answers}</dl></figcaption></figure>'


def _draw_heat_map(heat: HeatMap) -> str:
    address, caption = draw_heat(heat.pixels, heat.relevance), escape(heat.caption)
    image = picture(address, f"Image and heat map: {heat.caption}", heat.pixels.shape[1] <= LARGEST_PNG)
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _fewest_bits(sensitivity: SensitivityTable) -> list[Bits]:
    """Return the fewest bits that were measured of both together, of weights alone and of activations alone."""
    weight_bits, input_bits = sensitivity.baseline
    widths = measured_bits(sensitivity)
    together = [bits for bits in widths if bits.same]
    apart = [bits for bits in widths if not bits.same]
    of_weights = [bits for bits in apart if bits[1] == input_bits]
    of_inputs = [bits for bits in apart if bits[0] == weight_bits]
    return [kind[0] for kind in (together, of_weights, of_inputs) if kind]


def _draw_damage(sensitivity: SensitivityTable, bits: Bits) -> str:
    # A matmul has no weight, and no damage from its bits.
    values = {unit: max(row[bits], 0.0) for unit, row in sensitivity.table.items() if row.get(bits)}
    texts = {unit: f"{value:.0e}".replace("e-0", "e-") for unit, value in values.items()}
    name = describe_width(bits) + (" bits" if bits.same else " bits (weights / activations)")
    grid = draw_units(values, texts, sensitivity.metric, "warm", log=True)
    return f"<h3>At {escape(name)}</h3>{wide(grid)}"
