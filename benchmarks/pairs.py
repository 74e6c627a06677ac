# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Whether pairs of units tell more than units alone: CLADO's terms (arXiv 2307.05657), estimated from gradients.

    python benchmarks/pairs.py                  # measure and print the table
    python benchmarks/pairs.py --table          # print what was measured before

To first order a unit's other bits change v^T logits by s (`find_effects`), and a plan by the sum of s over its units.
Its damage is half the mean of that sum's square: s_u^2 for each unit, and s_u s_w for each pair. The terms of pairs
are multiplied by a factor; at 0 the plan is that of sensitivity alone. From there single units and pairs of units
change their bits as long as the predicted damage falls within the budget. Plans are judged by KL on the second half of
the evaluation images, as a multiple of that of uniform bits. Images are those of benchmarks/sensitivity.py.
"""

import argparse
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import Subject, load_subject, logits_of, machine, read_results, write_result
from torch import Tensor

from optimum_mixq import DEMO_MODELS
from optimum_mixq.architectures.describe import describe
from optimum_mixq.artifacts import BitPlan, UnitCosts
from optimum_mixq.config import MixQConfig
from optimum_mixq.pipeline import quantize_model
from optimum_mixq.stages.allocation.allocate import Budget, allocate
from optimum_mixq.stages.allocation.candidates import budget_of, candidate_bits, measured_bits
from optimum_mixq.stages.allocation.costs import measure_costs
from optimum_mixq.stages.calibration.blocks import calibrate_variants
from optimum_mixq.stages.evaluation import score
from optimum_mixq.stages.packing import pack, pack_layer
from optimum_mixq.stages.sensitivity.changes import VariantChanges
from optimum_mixq.stages.sensitivity.gradients import Gradient, find_effects
from optimum_mixq.stages.sensitivity.traced import draw_signs
from optimum_mixq.stages.sensitivity.traces import trace_units
from optimum_mixq.tasks import task_of
from optimum_mixq.utils.bits import Bits


FILE = "pairs.jsonl"
FACTORS = (0.0, 0.25, 0.5, 1.0)

# By unit and measured bits, a number for each image and probe.
Effects = dict[str, dict[Bits, Tensor]]


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    if not arguments.table:
        for name in arguments.models:
            for seed in arguments.seeds:
                measure(load_subject(name, arguments.bench), seed, arguments)
    print(table())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, help="folder with the models and images that are not shipped")
    parser.add_argument("--models", nargs="+", default=list(DEMO_MODELS))
    parser.add_argument("--targets", nargs="+", type=int, default=[3, 4])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--images", type=int, default=256, help="images of sensitivity")
    parser.add_argument("--table", action="store_true", help="only print what was measured before")
    return parser.parse_args()


def measure(subject: Subject, seed: int, arguments: argparse.Namespace) -> None:
    """Write a row for each target and factor, and for uniform bits."""
    calibration = [subject.calibration[32 * seed : 32 * seed + 32]]
    images = subject.calibration[-arguments.images :]
    half = len(subject.labels) // 2
    reference = logits_of(subject.model, subject.evaluation[half:])

    def judge(plan: BitPlan, config: MixQConfig) -> float | None:
        packed = quantize_model(subject.model, plan, calibration, config)
        return score(logits_of(packed, subject.evaluation[half:]), None, reference).kl

    base = {"model": subject.name, "seed": seed, "images": arguments.images, "machine": machine()}
    for target in arguments.targets:
        config = MixQConfig(bits=target, seed=seed, sensitivity="gradient", reconstruction=None)
        costs = measure_costs(subject.model, config.calibration)
        budget, candidates = budget_of(config.budget, costs), candidate_bits(config.budget, costs)
        effects = measure_effects(subject, calibration, images, config, costs)
        pairs = Pairs.of(effects, candidates)
        scores = {
            unit: {bits: float(pairs.products[k, k]) for bits, k in row.items()} for unit, row in pairs.places.items()
        }
        start = allocate(scores, costs, budget).bits
        report(
            base | {"target": target, "plan": "uniform", "kl": judge(BitPlan.uniform(subject.model, target), config)}
        )
        for factor in FACTORS:
            plan = search(pairs, factor, start, costs, budget)
            moved = sum(plan[unit] != start[unit] for unit in plan)
            predicted = pairs.damage(plan, factor) / pairs.damage(start, factor)
            kl = judge(BitPlan(plan, {"kind": "searched"}), config)
            report(base | {"target": target, "plan": factor, "kl": kl, "moved": moved, "predicted": predicted})


@torch.no_grad()
def measure_effects(
    subject: Subject, calibration: list[Tensor], images: Tensor, config: MixQConfig, costs: UnitCosts
) -> Effects:
    """Return what each unit's other bits do to v^T logits, as `sensitivity="gradient"` finds it."""
    model, around = subject.model, Bits(config.baseline, config.baseline)
    architecture, task = describe(model), task_of(model)
    calibrated, variants = calibrate_variants(
        model, BitPlan.uniform(model, config.baseline), calibration, config,
        measured_bits(config.budget, config.baseline, costs), pack_layer,
    )  # fmt: skip
    changes = VariantChanges(pack(calibrated), around, variants)
    signs = next(draw_signs([len(images)], (model.config.num_labels,), Gradient.probes, config.seed))
    found: dict[str, dict[Bits, list[Tensor]]] = {unit.name: {} for unit in architecture.units}
    for pixels, rows in zip(images.split(8), signs.split(8, 1), strict=True):

        def start(logits: Tensor, rows: Tensor = rows) -> list[Tensor]:
            return [task.probe(logits, row, config.temperature) for row in rows.to(logits.dtype)]

        for traces in trace_units(changes.model, architecture, pixels, start):
            for unit in architecture.units:
                if unit.name in traces:
                    effects = find_effects(traces[unit.name], changes.of(unit), len(pixels))
                    for bits, effect in effects.items():
                        found[unit.name].setdefault(bits, []).append(effect)
    return {unit: {bits: torch.cat(parts, 1).flatten() for bits, parts in row.items()} for unit, row in found.items()}


@dataclass(frozen=True)
class Pairs:
    """Half the mean of s_k s_l (options, options) for all options of all units."""

    products: Tensor
    places: dict[str, dict[Bits, int]]  # of each unit's options
    owner: Tensor  # (options,): the unit's number

    @classmethod
    def of(cls, effects: Effects, candidates: dict[str, tuple[Bits, ...]]) -> "Pairs":
        rows, places, owner = [], {}, []
        for number, (unit, found) in enumerate(effects.items()):
            places[unit] = {bits: len(rows) + place for place, bits in enumerate(candidates[unit])}
            for weight, activation in candidates[unit]:
                parts = [found.get(Bits(weight, 8)), found.get(Bits(8, activation))]
                rows.append(sum(part for part in parts if part is not None))
                owner.append(number)
        options = torch.stack(rows)
        return cls(options @ options.T / options.shape[1] / 2, places, torch.tensor(owner))

    def chosen(self, plan: dict[str, Bits]) -> Tensor:
        return torch.tensor([row[plan[unit]] for unit, row in self.places.items()])

    def shrunk(self, factor: float) -> Tensor:
        """Return the products with those of pairs of units multiplied by a factor."""
        return self.products * torch.where(self.owner[:, None] == self.owner, 1.0, factor)

    def damage(self, plan: dict[str, Bits], factor: float) -> float:
        chosen = self.chosen(plan)
        return float(self.shrunk(factor)[chosen][:, chosen].sum())


def search(pairs: Pairs, factor: float, start: dict[str, Bits], costs: UnitCosts, budget: Budget) -> dict[str, Bits]:
    """Return the plan that no change of one unit or of two betters within the budget, from `start`."""
    products, chosen, owner = pairs.shrunk(factor), pairs.chosen(start), pairs.owner
    options = [(unit, bits) for unit, row in pairs.places.items() for bits in row]
    limits = [
        (torch.tensor([cost(*option) for option in options]), allowed)
        for cost, allowed in (
            (costs.weight_bits, math.floor((budget.average_bits or math.inf) * costs.total_weights)),
            (costs.unit_bops, (budget.bops or 0) - costs.fixed_bops),
        )
    ]
    other_units = owner[:, None] != owner
    while True:
        now = chosen[owner]  # the option that each option would take the place of
        with_plan = products[:, chosen].sum(1)  # of each option with the whole plan
        own = products.diagonal()
        # One unit changes: its own term, and twice the terms with all others.
        single = own - own[now] + 2 * (with_plan - products.gather(1, now[:, None])[:, 0])
        single -= 2 * (with_plan[now] - own[now])
        between = products - products[:, now] - products[now] + products[now][:, now]
        change = torch.where(other_units, single[:, None] + single + 2 * between, single.diag_embed())
        possible = other_units | torch.eye(len(options), dtype=torch.bool)
        for spent, allowed in limits:
            more = spent - spent[now]
            both = torch.where(other_units, more[:, None] + more, more[:, None])
            possible &= both <= allowed - spent[chosen].sum()
        change = change.where(possible, torch.inf)
        best = int(change.argmin())
        if change.flatten()[best] >= -1e-12 * float(own[chosen].sum()):
            return dict(options[place] for place in chosen.tolist())
        for place in divmod(best, len(options)):
            chosen[owner[place]] = place


def report(row: dict[str, Any]) -> None:
    write_result(FILE, row)
    print(row, flush=True)


def table() -> str:
    """Return a row per model and target: KL of each factor's plan as a multiple of uniform's, over the seeds."""
    rows = read_results(FILE)
    kl = {(row["model"], row["target"], row["seed"], row["plan"]): row["kl"] for row in rows}
    runs = list(dict.fromkeys(key[:3] for key in kl))
    ratios = {factor: {run: kl[*run, factor] / kl[*run, "uniform"] for run in runs} for factor in FACTORS}
    lines = [
        f"| model | bits | {' | '.join(f'factor {factor:g}' for factor in FACTORS)} |",
        "|---" * (2 + len(FACTORS)) + "|",
    ]
    for case in dict.fromkeys(run[:2] for run in runs):
        means = [statistics.geometric_mean(own[run] for run in runs if run[:2] == case) for own in ratios.values()]
        lines.append(f"| {case[0]} | {case[1]} | {' | '.join(f'{mean:.3f}' for mean in means)} |")
    means = [statistics.geometric_mean(own.values()) for own in ratios.values()]
    lines.append(f"| all | | {' | '.join(f'{mean:.3f}' for mean in means)} |")
    better = [sum(own[run] < ratios[0.0][run] for run in runs) for own in ratios.values()]
    lines.append(f"| better than factor 0 | | {' | '.join(f'{count} of {len(runs)}' for count in better)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
