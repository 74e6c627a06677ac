# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""How many images bits have to be chosen on, and whether the two halves of them tell.

    python benchmarks/halves.py                           # measure with the shipped models, and print the table
    python benchmarks/halves.py --table                   # print what was measured before

A table of sensitivities is measured on more and more images, and the best plan by each is compared with those of its
halves, as `quantize` does. What the plan really loses is told by a table of other images, the first half of those for
evaluation: how much larger its score is there than that of the best plan by those.
"""

import argparse
import math
import statistics
from pathlib import Path

import torch
from common import Subject, load_subject, machine, read_results, write_result

from optimum_mixq import DEMO_MODELS
from optimum_mixq.artifacts import BitPlan, LayerRelevance, SensitivityTable, UnitCosts
from optimum_mixq.config import MixQConfig
from optimum_mixq.images.batches import Batch
from optimum_mixq.stages.allocation.allocate import combine_scores
from optimum_mixq.stages.allocation.candidates import candidate_bits, measured_bits
from optimum_mixq.stages.allocation.costs import measure_costs
from optimum_mixq.stages.allocation.halves import LARGEST_EXCESS, compare_halves
from optimum_mixq.stages.allocation.propose import best_plan
from optimum_mixq.stages.calibration.blocks import calibrate_variants
from optimum_mixq.stages.packing import pack, pack_layer
from optimum_mixq.stages.relevance.measure import measure_relevance
from optimum_mixq.stages.sensitivity.measure import measure_sensitivity
from optimum_mixq.stages.sensitivity.registry import Enough, SensitivityInputs
from optimum_mixq.utils.bits import Bits


FILE = "halves.jsonl"
ALPHAS = (0.0, 1.0)


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    if not arguments.table:
        for name in arguments.models:
            subject = load_subject(name, arguments.bench)
            for seed in arguments.seeds:
                measure(subject, seed, arguments)
    print(table())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, help="folder with the models and images that are not shipped")
    parser.add_argument("--models", nargs="+", default=list(DEMO_MODELS))
    parser.add_argument("--targets", nargs="+", type=int, default=[3, 4, 6])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--table", action="store_true", help="only print what was measured before")
    return parser.parse_args()


def measure(subject: Subject, seed: int, arguments: argparse.Namespace) -> None:
    """Write a row for each number of images, target and exponent of relevance.

    The tables of 64 and 128 images are those that the measurement on all of them asks about.
    """
    order = torch.randperm(len(subject.calibration), generator=torch.Generator().manual_seed(seed))
    images = subject.calibration[order]
    widths = sorted({b for target in arguments.targets for b in range(max(2, target - 1), min(8, target + 2) + 1)})
    config = MixQConfig(candidate_bits=tuple(widths), seed=seed)
    costs, around = measure_costs(subject.model, config.calibration), Bits(config.baseline, config.baseline)
    candidates = measured_bits(config.budget, config.baseline, costs)
    baseline, variants = calibrate_variants(
        subject.model, BitPlan.uniform(subject.model, around), [images[:32]], config, candidates, pack_layer
    )
    packed, tables = pack(baseline), []

    def measure_table(pixels: torch.Tensor, keep: Enough | None = None) -> SensitivityTable:
        inputs = SensitivityInputs(
            subject.model, batches_of(pixels), around, candidates, lambda _: (packed, variants),
            temperature=config.temperature, seed=seed, enough=keep,
        )  # fmt: skip
        return measure_sensitivity(inputs, "gradient")

    def keep(table: SensitivityTable) -> bool:
        tables.append(table)
        return False

    tables.append(measure_table(images[:32]))
    tables.append(measure_table(images[:256], keep))
    others = measure_table(subject.evaluation[: len(subject.evaluation) // 2])
    relevance = measure_relevance(subject.model, batches_of(images[:256]))
    for sensitivity in tables:
        for target in arguments.targets:
            for alpha in ALPHAS:
                options = MixQConfig(bits=target, alpha=alpha)
                row = {"model": subject.name, "seed": seed, "images": sensitivity.images, "target": target}
                row |= {"alpha": alpha, **judge(options, relevance, sensitivity, others, costs)}
                write_result(FILE, row | {"machine": machine()})
                print(row, flush=True)


def batches_of(pixels: torch.Tensor) -> list[Batch]:
    return [Batch(part, None, ()) for part in pixels.split(32)]


def judge(
    config: MixQConfig,
    relevance: LayerRelevance,
    sensitivity: SensitivityTable,
    others: SensitivityTable,
    costs: UnitCosts,
) -> dict[str, float | None]:
    """Return what the halves say of the best plan, and what its score is by the table of other images."""
    options = config.budget
    plan = best_plan(relevance, sensitivity, costs, options)
    best = best_plan(relevance, others, costs, options)
    scores = combine_scores(relevance, others, candidate_bits(options, costs), options.alpha)
    score, least = (sum(scores[unit][bits] for unit, bits in one.bits.items()) for one in (plan, best))
    halves = compare_halves(plan, relevance, sensitivity, costs, options)
    assert halves is not None  # the method is one that keeps them
    damage, error = sensitivity.plan_damage(plan.bits)
    return {
        "excess": halves.excess, "other_units": sum(halves.other_units) / 2, "units": len(plan.bits),
        "lost": score / least - 1, "damage": damage, "error": error,
    }  # fmt: skip


def table() -> str:
    """Return a row per target and number of images: means over models, seeds and exponents, and the largest."""
    rows = read_results(FILE)
    lines = [
        "| bits | images | other units, % | halves worse, % | most | enough | worse on others, % | most |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key in sorted({(row["target"], row["images"]) for row in rows}):
        own = [row for row in rows if (row["target"], row["images"]) == key]
        units = statistics.mean(row["other_units"] / row["units"] for row in own)
        cells = [*map(str, key), f"{100 * units:.0f}"]
        for name in ("excess", "lost"):
            found = [100 * row[name] for row in own]
            cells += [f"{statistics.mean(found):.1f}", f"{max(found):.1f}"]
            if name == "excess":
                cells.append(f"{sum(one <= 100 * LARGEST_EXCESS for one in found)} of {len(found)}")
        lines.append("| " + " | ".join(cells) + " |")
    pairs = [(math.log(row["excess"] + 1e-4), math.log(row["lost"] + 1e-4)) for row in rows]
    lines.append(f"\nCorrelation of the two, logarithms: {statistics.correlation(*zip(*pairs, strict=True)):.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
