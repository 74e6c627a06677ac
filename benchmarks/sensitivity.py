# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Which score chooses the best bits, and what it costs to measure.

    python benchmarks/sensitivity.py --bench PATH         # measure and print the tables
    python benchmarks/sensitivity.py --table              # print what was measured before

    python benchmarks/sensitivity.py --table --decide     # by the images that defaults are chosen on

Every score proposes its best plan for each target. A plan is calibrated and packed, and judged by the KL of logits on
three sets of images: those of sensitivity, on which `quantize` compares plans; the first half of the evaluation
images, on which defaults are chosen; and the second half, which is reported. Seed s calibrates on images 32 s to
32 s + 31; scores are measured on the last calibration images. Labels are used by none but "first-order". Random plans
are drawn with the first seed.
"""

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import BENCH_MODELS, Subject, geometric_mean, load_subject, logits_of, machine, read_results, write_result
from mixed_precision import random_plan
from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq import DEMO_MODELS
from optimum_mixq.architectures.describe import describe
from optimum_mixq.artifacts import BitPlan, LayerRelevance, SensitivityTable
from optimum_mixq.config import MixQConfig
from optimum_mixq.images.batches import Batch
from optimum_mixq.measurements import Measurements
from optimum_mixq.pipeline import quantize_model
from optimum_mixq.stages.allocation.propose import best_plan
from optimum_mixq.stages.relevance.measure import IMAGES_AT_ONCE, measure_shares
from optimum_mixq.stages.relevance.scores import require_score
from optimum_mixq.stages.sensitivity import method_names
from optimum_mixq.tasks import task_of


FILE = "sensitivity.jsonl"
MULTIPLIED = ("gradient", "measured")  # the scores that are multiplied by relevance
DEFAULT = "1e-02 mean"  # of relevance: its stabiliser, and how images are summed up
KINDS_OF_RELEVANCE = [
    f"{stabiliser:.0e} {kind}" for stabiliser in (0, 1e-6, 1e-4, 1e-2) for kind in ("mean", "median")
]

# Plans of which the nearest to the float model on the images of sensitivity is kept: today's three, and others.
COMPARED = {
    "two": ["{method}, alone", "uniform"],
    "three": [f"{{method}} x relevance^0.5, {DEFAULT}", "{method}, alone", "uniform"],
    "five": [
        f"{{method}} x relevance^1, {DEFAULT}", f"{{method}} x relevance^0.5, {DEFAULT}", "{method}, alone",
        f"relevance, {DEFAULT}", "uniform",
    ],
}  # fmt: skip
# A model, target and seed.
Case = tuple[Any, ...]


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    if not arguments.table:
        for name in arguments.models:
            subject = load_subject(name, arguments.bench)
            for seed in arguments.seeds:
                Run(subject, seed, arguments).measure()
    judge = "kl_decide" if arguments.decide else "kl"
    tables = table_of_scores(judge), table_of_scores(judge, BENCH_MODELS), table_of_relevances(judge)
    print("\n\n".join(tables))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, help="folder with the models and images that are not shipped")
    parser.add_argument("--models", nargs="+", default=[*DEMO_MODELS, *BENCH_MODELS])
    parser.add_argument("--methods", nargs="*", default=list(method_names()))
    parser.add_argument("--relevances", nargs="*", default=KINDS_OF_RELEVANCE, choices=KINDS_OF_RELEVANCE)
    parser.add_argument("--targets", nargs="+", type=int, default=[3, 4, 6])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--random", type=int, default=20, help="random plans, with the first seed")
    parser.add_argument("--images", type=int, default=256, help="images of sensitivity")
    parser.add_argument("--judges", type=int, default=500, help="images that judge, at most")
    parser.add_argument("--work", type=Path, help="folder that keeps what is measured")
    parser.add_argument("--decide", action="store_true", help="judge by the images that defaults are chosen on")
    parser.add_argument("--table", action="store_true", help="only print what was measured before")
    return parser.parse_args()


class Run:
    """One model and seed: its scores, and its plans, each of which is judged once."""

    def __init__(self, subject: Subject, seed: int, arguments: argparse.Namespace) -> None:
        self.subject, self.seed, self.arguments = subject, seed, arguments
        self.calibration = [subject.calibration[32 * seed : 32 * seed + 32]]
        pixels, labels = subject.calibration[-arguments.images :], subject.calibration_labels[-arguments.images :]
        self.images = [Batch(*part, ()) for part in zip(pixels.split(32), labels.split(32), strict=True)]
        half = len(subject.labels) // 2
        judges = {
            "compared": (pixels, MixQConfig().temperature),
            "kl_decide": (subject.evaluation[: min(half, arguments.judges)], 1.0),
            "kl": (subject.evaluation[half : half + arguments.judges], 1.0),
        }
        # By name: images, temperature, and the float model's logits.
        self.judges = {name: (*judge, logits_of(subject.model, judge[0])) for name, judge in judges.items()}
        if arguments.work is not None:
            arguments.work.mkdir(parents=True, exist_ok=True)
        self.base = {"model": subject.name, "seed": seed, "images": len(pixels), "machine": machine()}
        self.known = {(r["target"], r["bits"]): r for r in read_results(FILE) if self._is_own(r) and "kl" in r}

    def measure(self) -> None:
        relevances = self._relevances()
        costs, found = self._measured("gradient").costs, {}
        for method in self.arguments.methods:
            started = time.process_time()
            measured = self._measured(method)
            found[method] = measured.sensitivity
            self._report({"method": method, "seconds": time.process_time() - started})
        for target in self.arguments.targets:
            options = MixQConfig(bits=target, seed=self.seed).budget
            self._judge(target, "uniform", BitPlan.uniform(self.subject.model, target))
            for method, table in found.items():
                self._judge(target, f"{method}, alone", best_plan(None, table, costs, options))
                for kind, relevance in relevances.items() if method in MULTIPLIED else ():
                    for alpha in (0.5, 1.0) if kind == DEFAULT else (1.0,):
                        plan = best_plan(relevance, table, costs, replace(options, alpha=alpha))
                        self._judge(target, f"{method} x relevance^{alpha:g}, {kind}", plan)
            for kind, relevance in relevances.items():
                alike = ignore_sensitivity(next(iter(found.values())))
                self._judge(
                    target, f"relevance, {kind}", best_plan(relevance, alike, costs, replace(options, alpha=1.0))
                )
            generator = random.Random(0)
            for number in range(self.arguments.random if self.seed == 0 else 0):
                plan = random_plan(costs, MixQConfig(bits=target), generator)
                self._judge(target, f"random {number}", plan)

    def _measured(self, method: str) -> Measurements:
        targets = self.arguments.targets
        widths = {bits for target in targets for bits in range(max(2, target - 1), min(8, target + 2) + 1)}
        config = MixQConfig(candidate_bits=tuple(sorted(widths)), seed=self.seed, sensitivity=method)
        return Measurements(
            self.subject.model, self.calibration, self.images, config, self.arguments.work, every_image=True
        )

    def _relevances(self) -> dict[str, LayerRelevance]:
        """Return mean and median over images of what each stabiliser gives."""
        model, found = self.subject.model, {}
        architecture = describe(model)
        parts = [part for batch in self.images for part in batch.split(IMAGES_AT_ONCE)]
        for text, kinds in itertools.groupby(self.arguments.relevances, lambda kind: kind.split()[0]):
            way, stabiliser = require_score("absolute"), float(text)
            table = torch.cat([measure_shares(model, architecture, part, way, stabiliser)[0] for part in parts], 1)
            for kind in kinds:
                summed = table.median(1).values if kind.endswith("median") else table.mean(1)
                shares = dict(zip((unit.name for unit in architecture.units), summed.tolist(), strict=True))
                found[kind] = LayerRelevance(shares, 0.0, table.shape[1], "absolute")
        return found

    def _judge(self, target: int, name: str, plan: BitPlan) -> None:
        bits = " ".join(map(str, plan.bits.values()))
        if (target, bits) not in self.known:
            config = MixQConfig(bits=target, seed=self.seed, reconstruction=None)
            packed = quantize_model(self.subject.model, plan, self.calibration, config)
            self.known[target, bits] = {
                judge: self._divergence(packed, *given) for judge, given in self.judges.items()
            }
        found = {judge: self.known[target, bits][judge] for judge in self.judges}
        self._report({"target": target, "plan": name, "bits": bits, **found})

    def _divergence(self, packed: PreTrainedModel, pixels: Tensor, temperature: float, reference: Tensor) -> float:
        logits, task = logits_of(packed, pixels).double(), task_of(packed)
        return float(task.divergence(logits, reference.double(), temperature).mean())

    def _report(self, row: dict[str, Any]) -> None:
        write_result(FILE, self.base | row)
        print({key: value for key, value in row.items() if key != "bits"}, flush=True)

    def _is_own(self, row: dict[str, Any]) -> bool:
        return all(row[key] == self.base[key] for key in ("model", "seed", "images"))


def ignore_sensitivity(sensitivity: SensitivityTable) -> SensitivityTable:
    """Return a table in which all units suffer alike: rounding noise falls fourfold per bit, and adds up."""
    table = {unit: {bits: sum(4.0**-part for part in bits) for bits in row} for unit, row in sensitivity.table.items()}
    return replace(sensitivity, table=table)


def table_of_scores(judge: str = "kl", models: Sequence[str] = DEMO_MODELS) -> str:
    """Return a row for each way to choose bits, over the models' cases that all were judged in, and its cost."""
    ratios = {key: ratio for key, ratio in read_ratios(judge).items() if key[1] in models}
    found: dict[str, dict[Case, float]] = {}
    for (name, *case), ratio in ratios.items():
        found.setdefault(name, {})[tuple(case)] = ratio
    wanted = [name for name in found if name.split(", ")[-1] in ("alone", DEFAULT)]
    cases = set.intersection(*(set(found[name]) for name in wanted))
    targets = sorted({case[1] for case in cases})
    drawn = [(case, ratio) for name, own in found.items() if name.startswith("random") for case, ratio in own.items()]
    drawn = [(case, ratio) for case, ratio in drawn if case in cases]
    bits = " | ".join(f"{target} bits" for target in targets)
    lines = [
        f"| bits chosen by | {bits} | all (least-most) | better than uniform | random plans better | scores, s |",
        "|---" * (5 + len(targets)) + "|",
    ]
    for name in sorted(wanted, key=lambda name: (name.startswith("nearest"), name)):
        own = {case: found[name][case] for case in cases}
        better = sum(ratio < own[case] for case, ratio in drawn)
        told = cells(list(own.items()), targets)
        seconds = seconds_of(name.removesuffix(", alone"), models)
        lines.append(f"| {name.removesuffix(', ' + DEFAULT)} | {told} | {better} of {len(drawn)} | {seconds} |")
    if drawn:
        lines.append(f"| random plans | {cells(drawn, targets)} | | |")
    named = ", ".join(sorted({case[0] for case in cases}))
    return "\n".join([*lines, "", f"{len(cases)} cases of model ({named}), bits and seed."])


def table_of_relevances(judge: str = "kl") -> str:
    """Return a row for each stabiliser and way to sum up images: KL as a multiple of that with the default."""
    ratios = read_ratios(judge)
    plans = ["relevance", *(f"{method} x relevance^1" for method in MULTIPLIED)]
    lines = [
        "| stabiliser | relevance alone | gradient x relevance | measured x relevance | cases |",
        "|---|---|---|---|---|",
    ]
    for kind in KINDS_OF_RELEVANCE:
        pairs = [compare(ratios, f"{plan}, {kind}", f"{plan}, {DEFAULT}") for plan in plans]
        if all(pairs):
            cases = ", ".join(str(len(own)) for own in pairs)
            lines.append(f"| {kind} | {' | '.join(f'{geometric_mean(own):.3f}' for own in pairs)} | {cases} |")
    return "\n".join(lines)


def compare(ratios: Mapping[tuple[str, str, int, int], float], plan: str, other: str) -> list[float]:
    """Return how many times the other plan's KL a plan has, in each case that both were judged in."""
    return [
        ratio / ratios[other, *key[1:]]
        for key, ratio in ratios.items()
        if key[0] == plan and (other, *key[1:]) in ratios
    ]


def read_ratios(judge: str) -> dict[tuple[str, str, int, int], float]:
    """Return KL as a multiple of uniform's, by (plan, model, target, seed); with the plans that comparing keeps."""
    rows = {(r["plan"], r["model"], r["target"], r["seed"]): r for r in read_results(FILE) if "plan" in r}
    for method, (number, names) in itertools.product(MULTIPLIED, COMPARED.items()):
        plans = [name.format(method=method) for name in names]
        for key in {key[1:] for key in rows if key[0] == f"{method}, alone"}:
            own = [rows[plan, *key] for plan in plans if (plan, *key) in rows]
            if len(own) == len(plans):
                nearest = min(own, key=lambda row: row["compared"])
                rows[f"nearest of {number} with {method}, {DEFAULT}", *key] = nearest
    return {key: row[judge] / rows["uniform", *key[1:]][judge] for key, row in rows.items()}


def cells(ratios: list[tuple[Case, float]], targets: Sequence[int]) -> str:
    """Return the means at each target and of all, and how often a plan is better than uniform bits."""
    means = [geometric_mean(ratio for case, ratio in ratios if case[1] == target) for target in targets]
    whole = [ratio for _, ratio in ratios]
    spread = f"{geometric_mean(whole):.3f} ({min(whole):.2f}-{max(whole):.2f})"
    told = " | ".join(f"{mean:.3f}" for mean in means)
    return f"{told} | {spread} | {sum(ratio < 1 for ratio in whole)} of {len(whole)}"


def seconds_of(method: str, models: Sequence[str]) -> str:
    """Return the mean processor time of a method's table, model by model."""
    rows = [row for row in read_results(FILE) if row.get("method") == method and row["seconds"] > 1]
    found = [[row["seconds"] for row in rows if row["model"] == model] for model in models]
    return ", ".join(f"{statistics.mean(seconds):.0f}" for seconds in found if seconds)


if __name__ == "__main__":
    main()
