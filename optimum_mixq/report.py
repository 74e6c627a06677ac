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

from optimum_mixq.artifacts import (
    BitPlan,
    Bits,
    LayerRelevance,
    SensitivityTable,
    as_pair,
    bits_to_text,
    short_bits,
    write_json,
    write_text,
)
from optimum_mixq.pictures import WARM, draw_frontier, draw_heat, draw_units
from optimum_mixq.stages.evaluation import Evaluation


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
            _section("Float, uniform, mixed", contender_table(self), f"{self.dataset}. {self.machine}."),
            _section("Bits of every unit", _draw_bits(self.plan), _bits_note(self)),
        ]
        if self.relevance is not None:
            scores = self.relevance.scores
            picture = draw_units(scores, {unit: f"{100 * share:.1f}" for unit, share in scores.items()})
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
        return f"{_HEAD.replace('TITLE', escape(self.title))}<body><main>\n{body}\n</main></body></html>\n"


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
    facts = [
        (f"{base.megabytes / last.megabytes:.1f} x", "smaller"),
        (f"{base.milliseconds / last.milliseconds:.1f} x", "as fast"),
    ]
    if base.evaluation.accuracy is not None and last.evaluation.accuracy is not None:
        change = 100 * (last.evaluation.accuracy - base.evaluation.accuracy)
        facts.append((f"{change:+.2f}", f"points of top-1, on {last.evaluation.images} images"))
    tiles = "".join(f"<div><b>{escape(number)}</b><span>{escape(text)}</span></div>" for number, text in facts)
    return f'<h1>{escape(report.title)}</h1><div class="tiles">{tiles}</div>'


def _draw_bits(plan: BitPlan) -> str:
    """Draw the mean of both bits, so that the colour tells; the text is what a unit has."""
    texts = {unit: bits_to_text(short_bits(bits)) for unit, bits in plan.bits.items()}
    return draw_units({unit: sum(bits) / 2 for unit, bits in plan.bits.items()}, texts)


def _bits_note(report: Report) -> str:
    text = (
        f"Beside it, uniform bits give every cell {bits_to_text(short_bits(report.uniform))}. Columns are blocks; qk "
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
    return f"<p>At {escape(name)}:</p>{draw_units(values, texts, WARM, log=True)}"


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


_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>TITLE</title><style>
body{margin:0;background:#f8fafc;color:#0f172a;font:15px/1.5 system-ui,sans-serif}
main{max-width:900px;margin:0 auto;padding:32px 20px}
h1{font-size:26px;margin:0 0 16px}h2{font-size:18px;margin:0 0 4px}
section{background:#fff;border:1px solid #e2e8f0;border-radius:10px;padding:18px 20px;margin:16px 0}
p{color:#475569;margin:0 0 12px}.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th{font-weight:500;color:#475569;text-align:right}td{text-align:right}
th,td{padding:4px 10px;border-bottom:1px solid #e2e8f0;white-space:nowrap}
td:first-child,th:first-child{text-align:left}tbody tr:last-child td{border-bottom:0}
.tiles{display:flex;flex-wrap:wrap;gap:12px}
.tiles div{background:#1e40af;color:#fff;border-radius:10px;padding:12px 18px}
.tiles b{display:block;font-size:24px}.tiles span{opacity:.85}
.maps{display:flex;flex-wrap:wrap;gap:14px}figure{margin:0}
figcaption{font-size:13px;color:#475569}img{border-radius:6px;display:block}
summary{cursor:pointer;color:#1e40af}
</style></head>"""
