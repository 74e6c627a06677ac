# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What a person looks at: the table, the plan and the pictures of one quantized model, as a page and as JSON."""

import dataclasses
import platform
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.artifacts import BitPlan, LayerRelevance, SensitivityTable, as_pair, bits_to_text, short_bits
from optimum_mixq.reporting.page_style import HEAD
from optimum_mixq.reporting.pictures import WARM, draw_frontier, draw_heat, draw_units
from optimum_mixq.stages.evaluation import Evaluation
from optimum_mixq.utils.bits import Bits
from optimum_mixq.utils.files import write_json, write_text


@dataclass(frozen=True)
class Contender:
    """One line of the table: what was measured of one model."""

    name: str
    megabytes: float  # 10^6 bytes of its file
    milliseconds: float  # per image
    evaluation: Evaluation


@dataclass(frozen=True)
class HeatMap:
    pixels: Tensor  # (C, H, W)
    relevance: Tensor  # (H, W)
    caption: str


@dataclass(frozen=True)
class Report:
    """All that is told of one quantized model. The first contender is the float model, the last the quantized one."""

    title: str
    origin: tuple[str, ...]  # when, with what and by which command it was made, a line each
    dataset: str
    machine: str
    contenders: tuple[Contender, ...]
    plan: BitPlan
    uniform: Bits
    relevance: LayerRelevance | None
    sensitivity: SensitivityTable | None
    frontier: tuple[BitPlan, ...]
    score: float | None  # of the plan, by what the frontier's plans have least of
    float_parts: dict[str, int]
    heat_maps: tuple[HeatMap, ...]

    def save(self, folder: str | Path) -> Path:
        """Write report.html, which needs no other file, and report.json; return the page's path."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "report.json", self.as_json())
        page = folder / "report.html"
        write_text(page, self.as_html())
        return page

    def as_json(self) -> dict[str, Any]:
        contenders = [
            dataclasses.asdict(contender) | {"accuracy_interval": contender.evaluation.accuracy_interval}
            for contender in self.contenders
        ]
        return {
            "title": self.title,
            "origin": self.origin,
            "dataset": self.dataset,
            "machine": self.machine,
            "contenders": contenders,
            "bits": {unit: short_bits(bits) for unit, bits in self.plan.bits.items()},
            "plan": self.plan.provenance,
            "relevance": None if self.relevance is None else self.relevance.scores,
            "sensitivity": None if self.sensitivity is None else self.sensitivity.as_text(),
            "score": self.score,
            "frontier": [plan.provenance["achieved"] | _objective(plan) for plan in self.frontier],
            "float_parts": self.float_parts,
        }

    def as_html(self) -> str:
        sections = [
            _headline(self),
            _section("Float, uniform, mixed", contender_table(self), escape(_contender_note(self))),
            _section("Bits of every unit", _draw_bits(self.plan), _bits_note(self)),
        ]
        if self.relevance is not None:
            scores = self.relevance.scores
            shares = {unit: 100 * share for unit, share in scores.items()}
            picture = draw_units(shares, {unit: f"{share:.1f}" for unit, share in shares.items()}, measure="%")
            note = (
                f"Per cent of the relevance that passes through each unit, mean of {self.relevance.images} images. "
                f"Relevance is conserved to {self.relevance.conservation_error:.0e}."
            )
            sections.append(_section("Relevance", picture, note))
        if self.sensitivity is not None:
            sections.append(_sensitivity_section(self.sensitivity))
        if self.frontier:
            sections.append(_frontier_section(self))
        if self.heat_maps:
            sections.append(_heat_section(self.heat_maps))
        sections.append(_float_section(self.float_parts))
        body = "\n".join(sections)
        return f"{HEAD.replace('TITLE', escape(self.title))}<body><main>\n{body}\n</main></body></html>\n"


def name_machine() -> str:
    """Return the processor's name, its threads in use, and torch's version."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return f"{name}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"


def float_parts(model: PreTrainedModel) -> dict[str, int]:
    """Return what a packed model keeps in floating point: how many numbers, by the last words of their names."""
    counts: dict[str, int] = defaultdict(int)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            counts[".".join(name.split(".")[-2:])] += tensor.numel()
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


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


def contender_table(report: Report) -> str:
    """Return the HTML table of what was measured."""
    base = report.contenders[0]
    rows = []
    for contender in report.contenders:
        result = contender.evaluation
        interval = result.accuracy_interval
        accuracy = "" if result.accuracy is None else f"{100 * result.accuracy:.2f} %"
        between = "" if interval is None else f"{100 * interval[0]:.1f} - {100 * interval[1]:.1f}"
        agreement = "" if result.agreement is None else f"{100 * result.agreement:.1f} %"
        kl = "" if result.kl is None else f"{result.kl:.4f}"
        smaller, faster = base.megabytes / contender.megabytes, base.milliseconds / contender.milliseconds
        cells = (
            contender.name, accuracy, between, agreement, kl, f"{contender.megabytes:.2f}", f"{smaller:.1f} x",
            f"{contender.milliseconds:.2f}", f"{faster:.1f} x",
        )  # fmt: skip
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    heads = ("", "top-1", "95 % interval", "agreement", "KL to float", "MB", "smaller", "ms per image", "faster")
    head = "".join(f"<th>{text}</th>" for text in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _headline(report: Report) -> str:
    base, last = report.contenders[0], report.contenders[-1]
    facts = [(f"{base.megabytes / last.megabytes:.1f} x", "smaller")]
    if _is_faster(report):
        facts.append((f"{base.milliseconds / last.milliseconds:.1f} x", "as fast"))
    if base.evaluation.accuracy is not None and last.evaluation.accuracy is not None:
        before, after = 100 * base.evaluation.accuracy, 100 * last.evaluation.accuracy
        told = f"points of top-1: {before:.2f} % to {after:.2f} % on {last.evaluation.images} images"
        facts.append((f"{after - before:+.2f}", told))
    tiles = "".join(f"<div><b>{escape(number)}</b><span>{escape(text)}</span></div>" for number, text in facts)
    origin = "<br>".join(map(escape, report.origin))
    return f'<h1>{escape(report.title)}</h1><p>{origin}</p><div class="tiles">{tiles}</div>'


def _is_faster(report: Report) -> bool:
    return report.contenders[0].milliseconds > 1.05 * report.contenders[-1].milliseconds


def _contender_note(report: Report) -> str:
    """Return where the table's numbers come from, and how mixed bits stand to uniform ones, in words."""
    sentences = [f"{report.dataset}. {report.machine}."]
    last = report.contenders[-1].evaluation
    for uniform in report.contenders[1:-1]:
        other = uniform.evaluation
        if last.kl is not None and other.kl:
            sentences.append(f"The distance to float is {last.kl / other.kl:.2f} times that of {uniform.name}.")
        if last.accuracy_interval is not None and other.accuracy_interval is not None:
            (low, high), (other_low, other_high) = last.accuracy_interval, other.accuracy_interval
            if low <= other_high and other_low <= high:
                sentences.append(
                    "The intervals of their top-1 overlap: so few images do not tell which is more accurate."
                )
    if not _is_faster(report):
        sentences.append(
            "It is not faster than float here: in small models most of a forward is spent around the products that "
            "are integers, and a busy machine blurs the rest."
        )
    return " ".join(sentences)


def _draw_bits(plan: BitPlan) -> str:
    """Draw the mean of both bits, so that the colour tells; the text and the title are what a unit has."""
    texts = {unit: bits_to_text(short_bits(bits)) for unit, bits in plan.bits.items()}
    means = {unit: sum(bits) / 2 for unit, bits in plan.bits.items()}
    return draw_units(means, texts, titles={unit: f"{text} bits" for unit, text in texts.items()}, measure="bits")


def _bits_note(report: Report) -> str:
    text = (
        f"With uniform bits every cell would be {bits_to_text(short_bits(report.uniform))}. Columns are blocks; qk "
        "and av are the two products of attention."
    )
    if any(weight != input_ for weight, input_ in report.plan.bits.values()):
        text += " Two numbers are bits of weights / bits of activations."
    achieved = report.plan.provenance.get("achieved")
    if achieved:
        text += (
            f" This plan averages {achieved['average_bits']:.3f} bits per weight, "
            f"{achieved['bytes'] / 1e6:.3f} MB and {achieved['bops'] / 1e9:.3f} x 10^9 bit operations."
        )
    return text


def _sensitivity_section(sensitivity: SensitivityTable) -> str:
    baseline = short_bits(sensitivity.baseline)
    widths = sorted({bits for row in sensitivity.table.values() for bits in row if bits != baseline}, key=as_pair)
    rows = "".join(
        f"<tr><td>{escape(unit)}</td>"
        + "".join(f"<td>{row[bits]:.2e}</td>" if row.get(bits) else "<td></td>" for bits in widths)
        + "</tr>"
        for unit, row in sensitivity.table.items()
    )
    head = "".join(f"<th>{escape(bits_to_text(bits))} bits</th>" for bits in widths)
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"
    note = (
        f"What it costs the network ({escape(sensitivity.metric)}) to have one unit at fewer bits and all others at "
        f"{bits_to_text(baseline)}, on {sensitivity.images} images; colours are logarithmic."
    )
    pictures = "".join(_draw_damage(sensitivity, bits) for bits in _fewest_bits(sensitivity, widths))
    return _section("Sensitivity", pictures + f"<details><summary>all widths</summary>{table}</details>", note)


def _fewest_bits(sensitivity: SensitivityTable, widths: Sequence[int | Bits]) -> list[int | Bits]:
    """Return the fewest bits that were measured of both together, of weights alone and of activations alone."""
    weight_bits, input_bits = sensitivity.baseline
    together = [bits for bits in widths if isinstance(bits, int)]
    apart = [bits for bits in widths if not isinstance(bits, int)]
    of_weights = [bits for bits in apart if bits[1] == input_bits]
    of_inputs = [bits for bits in apart if bits[0] == weight_bits]
    return [kind[0] for kind in (together, of_weights, of_inputs) if kind]


def _draw_damage(sensitivity: SensitivityTable, bits: int | Bits) -> str:
    # A matmul has no weight, and no damage from its bits.
    values = {unit: max(row[bits], 0.0) for unit, row in sensitivity.table.items() if row.get(bits)}
    texts = {unit: f"{value:.0e}".replace("e-0", "e-") for unit, value in values.items()}
    name = f"{bits} bits" if isinstance(bits, int) else f"{bits_to_text(bits)} bits (weights/activations)"
    return f"<p>At {escape(name)}:</p>{draw_units(values, texts, WARM, log=True, measure='(logarithmic)')}"


def _frontier_section(report: Report) -> str:
    points = frontier_points(report.frontier)
    achieved, marked = report.plan.provenance.get("achieved"), []
    if achieved is not None and report.score is not None:
        marked = [(achieved["bytes"] / 1e6, report.score, "this model")]
    note = (
        "The least total score that each size allows, from the same measurements. Of several plans the one nearest to "
        "the float model is kept, which need not be the one of least score."
    )
    return _section("Frontier", draw_frontier(points, marked), note)


def _heat_section(maps: Sequence[HeatMap]) -> str:
    pictures = "".join(
        f'<figure><img alt="{escape(heat.caption)}" src="{draw_heat(heat.pixels, heat.relevance)}"/>'
        f"<figcaption>{escape(heat.caption)}</figcaption></figure>"
        for heat in maps
    )
    note = "Where relevance of the float model's prediction comes from: red speaks for the class, blue against it."
    return _section("What the model looks at", f'<div class="maps">{pictures}</div>', note)


def _float_section(parts: dict[str, int]) -> str:
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{count:,}</td></tr>" for name, count in parts.items())
    table = f"<table><thead><tr><th>tensors</th><th>numbers</th></tr></thead><tbody>{rows}</tbody></table>"
    note = "LayerNorm, the sums of softmax, GELU and residual additions compute in floating point as well."
    return _section("What stays float", f"<details><summary>list</summary>{table}</details>", note)


def _section(title: str, content: str, note: str = "") -> str:
    return f'<section><h2>{escape(title)}</h2><p>{note}</p><div class="wide">{content}</div></section>'


def _objective(plan: BitPlan) -> dict[str, float]:
    return {"objective": plan.provenance["objective"]}
