# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Which way to measure sensitivity chooses the best bits, and what it costs.

    python benchmarks/sensitivity.py --bench PATH         # measure and print the table
    python benchmarks/sensitivity.py --table              # print what was measured before

Each method of the registry measures its table on the same images, plans are proposed from it and compared as
`quantize` does, and the plan that is kept is judged by KL on other images, as a multiple of that of uniform bits. Seed
s calibrates on images 32 s to 32 s + 31; sensitivity is measured on the last calibration images; the second half of
the evaluation images judges.
"""

import argparse
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from common import BENCH_MODELS, Subject, load_subject, logits_of, machine, read_results, write_result

from optimum_mixq import DEMO_MODELS
from optimum_mixq.artifacts import BitPlan, Known
from optimum_mixq.config import MixQConfig
from optimum_mixq.images.batches import Batch
from optimum_mixq.pipeline import Measurements, compare_plans, quantize_model
from optimum_mixq.stages.allocation.propose import propose_plans
from optimum_mixq.stages.evaluation import score
from optimum_mixq.stages.sensitivity import method_names


FILE = "sensitivity.jsonl"


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
    parser.add_argument("--models", nargs="+", default=[*DEMO_MODELS, *BENCH_MODELS])
    parser.add_argument("--methods", nargs="+", default=list(method_names()))
    parser.add_argument("--targets", nargs="+", type=int, default=[3, 4, 6])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=256, help="images of sensitivity")
    parser.add_argument("--table", action="store_true", help="only print what was measured before")
    return parser.parse_args()


def measure(subject: Subject, seed: int, arguments: argparse.Namespace) -> None:
    """Write a row for each target and method, and for uniform bits."""
    calibration = [subject.calibration[32 * seed : 32 * seed + 32]]
    images = [Batch(part, None, ()) for part in subject.calibration[-arguments.images :].split(32)]
    half = len(subject.labels) // 2
    reference = logits_of(subject.model, subject.evaluation[half:])

    def judge(packed: Any) -> float | None:
        return score(logits_of(packed, subject.evaluation[half:]), None, reference).kl

    base = {"model": subject.name, "seed": seed, "images": arguments.images, "machine": machine()}
    for target in arguments.targets:
        plan = BitPlan.uniform(subject.model, target)
        kl = judge(quantize_model(subject.model, plan, calibration, MixQConfig(bits=target)))
        report(base | {"target": target, "method": "uniform", "kl": kl, "seconds": 0.0})
    widths = sorted({b for target in arguments.targets for b in range(max(2, target - 1), min(8, target + 2) + 1)})
    for method in arguments.methods:
        options = {"candidate_bits": tuple(widths), "seed": seed, "sensitivity": method}
        measured = Measurements(subject.model, calibration, images, MixQConfig(**options), every_image=True)
        started = time.process_time()
        known = Known(sensitivity=measured.sensitivity)
        seconds = time.process_time() - started
        known = Known(measured.relevance, known.sensitivity)
        for target in arguments.targets:
            config = MixQConfig(bits=target, seed=seed, sensitivity=method)
            chosen = Measurements(subject.model, calibration, images, config, known=known)
            plans = propose_plans(chosen.relevance, chosen.sensitivity, chosen.costs, config.budget)
            plan, packed = compare_plans(chosen, plans)
            kept = plan.provenance["chosen"]
            report(base | {"target": target, "method": method, "kl": judge(packed), "seconds": seconds, "kept": kept})


def report(row: dict[str, Any]) -> None:
    write_result(FILE, row)
    print(row, flush=True)


def table() -> str:
    """Return a row per model, target and method: KL of the plan kept as a multiple of uniform's, over the seeds."""
    rows = read_results(FILE)
    uniform = {(r["model"], r["target"], r["seed"]): r["kl"] for r in rows if r["method"] == "uniform"}
    lines = [
        "| method | model | bits | KL / KL of uniform bits (least to most of the seeds) | table, processor s |",
        "|---|---|---|---|---|",
    ]
    methods = list(dict.fromkeys(row["method"] for row in rows if row["method"] != "uniform"))
    for method in methods:
        own = [row for row in rows if row["method"] == method]
        ratios = {
            (r["model"], r["target"], r["seed"]): r["kl"] / uniform[r["model"], r["target"], r["seed"]] for r in own
        }
        for model, target in dict.fromkeys((row["model"], row["target"]) for row in own):
            found = [ratio for key, ratio in ratios.items() if key[:2] == (model, target)]
            seconds = statistics.mean(r["seconds"] for r in own if (r["model"], r["target"]) == (model, target))
            lines.append(
                f"| {method} | {model} | {target} | {mean_ratio(found):.2f} ({min(found):.2f}-{max(found):.2f}) "
                f"| {seconds:.0f} |"
            )
        better = sum(ratio < 1 for ratio in ratios.values())
        lines.append(
            f"| {method} | all | | {mean_ratio(list(ratios.values())):.2f}; better than uniform in {better} of "
            f"{len(ratios)} | |"
        )
    return "\n".join(lines)


def mean_ratio(ratios: list[float]) -> float:
    """Return the geometric mean."""
    return math.exp(statistics.mean(map(math.log, ratios)))


if __name__ == "__main__":
    main()
