# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Mixed-precision plans beside uniform bits at the same size and bit operations.

    python benchmarks/mixed_precision.py --bench PATH     # measure and print the table
    python benchmarks/mixed_precision.py --bench PATH --cost --models vit-small-cifar10
    python benchmarks/mixed_precision.py --bench PATH --again    # judge the plans of earlier rows anew
    python benchmarks/mixed_precision.py --table          # print what was measured before

Seed s calibrates on images 32 s to 32 s + 31 and chooses bits on the last calibration images, by default or with
another method (--sensitivity). Defaults were chosen on the first half of the evaluation images (--decide); the table
is of the second half. Random plans are drawn uniformly from those that keep both budgets and use nearly all of one.
"""

import argparse
import dataclasses
import random
import statistics
import time
from pathlib import Path

import torch
from common import BENCH_MODELS, Subject, load_subject, logits_of, read_results, write_result
from transformers import PreTrainedModel

from optimum_mixq import DEMO_MODELS
from optimum_mixq.artifacts import BitPlan, Known, UnitCosts
from optimum_mixq.config import MixQConfig
from optimum_mixq.images.batches import Batch
from optimum_mixq.measurements import Measurements
from optimum_mixq.pipeline import choose, quantize_model
from optimum_mixq.stages.allocation.candidates import budget_of, candidate_bits, measured_bits
from optimum_mixq.stages.allocation.costs import measure_costs
from optimum_mixq.stages.calibration.blocks import calibrate_variants
from optimum_mixq.stages.evaluation import measure_logits, score
from optimum_mixq.stages.packing import pack, pack_layer
from optimum_mixq.stages.sensitivity.measure import measure_sensitivity
from optimum_mixq.stages.sensitivity.registry import SensitivityInputs
from optimum_mixq.utils.bits import Bits


FILE = "mixed_precision.jsonl"


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    if arguments.cost:
        measure_cost(load_subject(arguments.models[0], arguments.bench))
    elif not arguments.table:
        for name in arguments.models:
            subject = load_subject(name, arguments.bench)
            half = len(subject.labels) // 2
            part = slice(0, half) if arguments.decide else slice(half, None)
            subject = dataclasses.replace(subject, evaluation=subject.evaluation[part], labels=subject.labels[part])
            reference = logits_of(subject.model, subject.evaluation)
            for seed in arguments.seeds:
                (judge_again if arguments.again else measure)(subject, reference, seed, arguments)
    print_table()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, help="folder with the models and images that are not shipped")
    parser.add_argument("--models", nargs="+", default=[*DEMO_MODELS, *BENCH_MODELS])
    parser.add_argument("--targets", nargs="+", type=int, default=[3, 4, 6])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--sensitivity", default=MixQConfig().sensitivity, help="the method that bits are chosen by")
    parser.add_argument("--uniform", action=argparse.BooleanOptionalAction, default=True, help="uniform bits as well")
    parser.add_argument("--random", type=int, default=20, help="random plans, with the first seed")
    parser.add_argument("--random-targets", nargs="+", type=int, help="targets with random plans: all, if not given")
    parser.add_argument("--images", type=int, default=256, help="images of sensitivity")
    parser.add_argument("--cost", action="store_true", help="time the table of the first model beside naive forwards")
    parser.add_argument("--again", action="store_true", help="choose no bits: judge the plans of earlier rows anew")
    parser.add_argument("--decide", action="store_true", help="evaluate on the images that defaults are chosen on")
    parser.add_argument("--table", action="store_true", help="only print what was measured before")
    return parser.parse_args()


def measure(subject: Subject, reference: torch.Tensor, seed: int, arguments: argparse.Namespace) -> None:
    calibration = [subject.calibration[32 * seed : 32 * seed + 32]]
    batches = [Batch(part, None, ()) for part in subject.calibration[-arguments.images :].split(32)]
    options = {"seed": seed, "sensitivity": arguments.sensitivity, "reconstruction": None}
    known = None
    for target in arguments.targets:
        config = MixQConfig(bits=target, **options)
        started = time.process_time()
        measured = Measurements(subject.model, calibration, batches, config, known=known)
        choice = choose(measured)
        known = Known(measured.relevance)
        seconds, found = time.process_time() - started, [("default", choice.plan, choice.packed)]
        if arguments.uniform:
            found.append(("uniform", BitPlan.uniform(subject.model, target), None))
        drawn = arguments.random if seed == 0 and target in (arguments.random_targets or arguments.targets) else 0
        generator = random.Random(seed)
        plans = [random_plan(measured.costs, config, generator) for _ in range(drawn)]
        found += [(f"random {number}", plan, None) for number, plan in enumerate(plans)]
        for kind, plan, packed in found:
            packed = packed or quantize_model(subject.model, plan, calibration, config)
            result = score(logits_of(packed, subject.evaluation), subject.labels, reference)
            row = {
                "model": subject.name, "target": target, "plan": kind, "seed": seed, "decide": arguments.decide,
                "sensitivity": arguments.sensitivity, "sensitivity_images": choice.sensitivity.images,
                "top1": 100 * result.accuracy, "kl": result.kl, "images": result.images, "seconds": seconds,
                "chosen": plan.provenance.get("chosen"), "bits": {unit: list(b) for unit, b in plan.bits.items()},
            }  # fmt: skip
            write_result(FILE, row)
            print(f"{subject.name} {target} bits, {kind} ({row['chosen']}), seed {seed}: {result}", flush=True)


def judge_again(subject: Subject, reference: torch.Tensor, seed: int, arguments: argparse.Namespace) -> None:
    """Write each earlier row of the seed once more, its plan calibrated by today's code."""
    calibration = [subject.calibration[32 * seed : 32 * seed + 32]]
    kinds = {"default", "uniform", *(f"random {number}" for number in range(arguments.random))}
    for earlier in read_results(FILE):
        own = (earlier["model"], earlier["seed"], earlier["decide"]) == (subject.name, seed, arguments.decide)
        if not own or earlier["target"] not in arguments.targets or earlier["plan"] not in kinds:
            continue
        plan = BitPlan({unit: Bits(*bits) for unit, bits in earlier["bits"].items()})
        config = MixQConfig(bits=earlier["target"], seed=seed, reconstruction=None)
        packed = quantize_model(subject.model, plan, calibration, config)
        result = score(logits_of(packed, subject.evaluation), subject.labels, reference)
        row = earlier | {"top1": 100 * result.accuracy, "kl": result.kl, "images": result.images, "again": True}
        write_result(FILE, row)
        print(f"{subject.name} {row['target']} bits, {row['plan']}, seed {seed}, again: {result}", flush=True)


def measure_cost(subject: Subject, images: int = 32, widths: tuple[int, ...] = (3, 4, 5, 6)) -> None:
    """Time the table on one batch beside whole forwards, of which a naive table takes one for each entry.

    Both grow alike with the number of batches.
    """
    pixels, config = subject.calibration[:images], MixQConfig(candidate_bits=widths)
    around = Bits(config.baseline, config.baseline)
    candidates = measured_bits(config.budget, config.baseline, measure_costs(subject.model, config.calibration))
    baseline, packed = calibrate_variants(
        subject.model, BitPlan.uniform(subject.model, around), [pixels], config, candidates, pack_layer
    )
    model, batch = pack(baseline), Batch(pixels, None, ())
    forwards = [time_forward(model, batch) for _ in range(4)]
    started = time.perf_counter()
    measure_sensitivity(SensitivityInputs(subject.model, [batch], around, candidates, lambda _: (model, packed)))
    seconds = time.perf_counter() - started
    forwards += [time_forward(model, batch) for _ in range(4)]
    naive = statistics.median(forwards[1:]) * sum(len(row) for row in packed.values())
    row = {"model": subject.name, "entries": sum(map(len, packed.values())), "share_of_naive": seconds / naive}
    write_result("sensitivity_cost.jsonl", row | {"seconds": seconds})
    print(row)


def time_forward(model: PreTrainedModel, batch: Batch) -> float:
    started = time.perf_counter()
    measure_logits(model, [batch])
    return time.perf_counter() - started


def random_plan(costs: UnitCosts, config: MixQConfig, generator: random.Random) -> BitPlan:
    """Return a plan within the budget in which no unit's weights or activations can be given one bit more."""
    budget = budget_of(config.budget, costs)
    target = config.bits
    assert isinstance(target, int) and budget.average_bits is not None and budget.bops is not None
    candidates = candidate_bits(config.budget, costs)

    def fits(plan: dict[str, Bits]) -> bool:
        return costs.average_bits(plan) <= budget.average_bits + 1e-9 and costs.bops(plan) <= budget.bops

    plan = {unit: min(pairs) for unit, pairs in candidates.items()}
    # One bit more for a weight or for activations; a matmul has one number for both operands.
    growing = [(unit, step) for unit in plan for step in (((1, 0), (0, 1)) if costs.weights[unit] else ((1, 1),))]
    while growing:
        unit, step = generator.choice(growing)
        larger = plan | {unit: Bits(plan[unit].weight + step[0], plan[unit].activation + step[1])}
        if larger[unit] in candidates[unit] and fits(larger):
            plan = larger
        else:
            growing.remove((unit, step))
    return BitPlan(plan)


def print_table() -> None:
    rows = read_results(FILE)
    print("\n| model | target | plan | top-1 % | KL | random plans that are better (KL) |\n|---|---|---|---|---|---|")
    named = [row for row in rows if not row["plan"].startswith("random")]
    for key in dict.fromkeys((row["model"], row["target"], row["plan"], row["decide"]) for row in named):
        group = [r for r in named if (r["model"], r["target"], r["plan"], r["decide"]) == key]
        rivals = [r["kl"] for r in rows if r["plan"].startswith("random") and (r["model"], r["target"]) == key[:2]]
        first = next(r["kl"] for r in group if r["seed"] == min(g["seed"] for g in group))
        better = f"{sum(kl < first for kl in rivals)} of {len(rivals)}" if rivals else ""
        top1, kl = [r["top1"] for r in group], [r["kl"] for r in group]
        print(
            f"| {key[0]} | {key[1]} | {key[2]}{' (decide)' if key[3] else ''} "
            f"| {statistics.mean(top1):.2f} ({min(top1):.2f}-{max(top1):.2f}) "
            f"| {statistics.mean(kl):.4f} ({min(kl):.4f}-{max(kl):.4f}) | {better} |"
        )


if __name__ == "__main__":
    main()
