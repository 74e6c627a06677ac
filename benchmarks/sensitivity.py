# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Which score chooses the best bits, and what it costs to measure.

    python benchmarks/sensitivity.py --bench PATH         # measure and print the tables
    python benchmarks/sensitivity.py --table              # print what was measured before

Every score proposes its best plan for each target. A plan is calibrated and packed, and judged twice: by the KL of
logits on the images of sensitivity, on which `quantize` compares plans, and by the KL on other images, the second half
of the evaluation images. Seed s calibrates on images 32 s to 32 s + 31; scores are measured on the last calibration
images. Labels are used by none but "first-order". Random plans are drawn with the first seed.
"""

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import BENCH_MODELS, Subject, geometric_mean, load_subject, logits_of, machine, read_results, write_result
from mixed_precision import random_plan
from torch import Tensor

from optimum_mixq import DEMO_MODELS
from optimum_mixq.architectures.describe import describe
from optimum_mixq.artifacts import BitPlan, LayerRelevance, SensitivityTable
from optimum_mixq.config import MixQConfig
from optimum_mixq.images.batches import Batch
from optimum_mixq.pipeline import Measurements, quantize_model
from optimum_mixq.stages.allocation.propose import best_plan
from optimum_mixq.stages.relevance.measure import IMAGES_AT_ONCE, measure_shares
from optimum_mixq.stages.relevance.scores import require_score
from optimum_mixq.stages.sensitivity import method_names
from optimum_mixq.tasks import task_of


FILE = "sensitivity.jsonl"
MULTIPLIED = ("gradient", "measured")  # the scores that are multiplied by relevance
# The plans of benchmarks/mixed_precision.py, which were chosen from the measured table and judged on the same images.
SAME_PLANS = {
    "alpha 1": "measured x relevance^1, 1e-02 mean", "alpha 0.5": "measured x relevance^0.5, 1e-02 mean",
    "alpha 0": "measured, alone", "relevance alone": "relevance, 1e-02 mean",
    "default": "nearest of five with measured, 1e-02 mean",
}  # fmt: skip
DEFAULT = "1e-02 mean"  # of relevance: its stabiliser, and how images are summed up
KINDS_OF_RELEVANCE = [
    f"{stabiliser:.0e} {kind}" for stabiliser in (0, 1e-6, 1e-4, 1e-2) for kind in ("mean", "median")
]


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    if not arguments.table:
        for name in arguments.models:
            subject = load_subject(name, arguments.bench)
            for seed in arguments.seeds:
                Run(subject, seed, arguments).measure()
    print(f"{table_of_scores()}\n\n{table_of_relevances()}")


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
        self.judges = subject.evaluation[half : half + arguments.judges]
        self.reference = logits_of(subject.model, self.judges)
        self.float_logits = logits_of(subject.model, pixels)
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
            config = MixQConfig(bits=target, seed=self.seed)
            packed = quantize_model(self.subject.model, plan, self.calibration, config)
            pixels = torch.cat([batch.pixel_values for batch in self.images])
            near = self._divergence(logits_of(packed, pixels), self.float_logits, config.temperature)
            far = self._divergence(logits_of(packed, self.judges), self.reference, 1.0)
            self.known[target, bits] = {"kl": far, "compared": near}
        row = {"target": target, "plan": name, "bits": bits}
        self._report({**row, **{key: self.known[target, bits][key] for key in ("kl", "compared")}})

    def _divergence(self, logits: Tensor, reference: Tensor, temperature: float) -> float:
        found = task_of(self.subject.model).divergence(logits.double(), reference.double(), temperature)
        return float(found.mean())

    def _report(self, row: dict[str, Any]) -> None:
        write_result(FILE, self.base | row)
        print({key: value for key, value in row.items() if key != "bits"}, flush=True)

    def _is_own(self, row: dict[str, Any]) -> bool:
        return all(row[key] == self.base[key] for key in ("model", "seed", "images"))


def ignore_sensitivity(sensitivity: SensitivityTable) -> SensitivityTable:
    """Return a table in which all units suffer alike: rounding noise falls fourfold per bit, and adds up."""
    table = {unit: {bits: sum(4.0**-part for part in bits) for bits in row} for unit, row in sensitivity.table.items()}
    return replace(sensitivity, table=table)


def table_of_scores() -> str:
    """Return a row for each way to choose bits: KL as a multiple of uniform's, and what its scores cost."""
    ratios = read_ratios()
    drawn = [key for key in ratios if key[0].startswith("random")]
    wanted = [name for name in dict.fromkeys(key[0] for key in ratios) if name.split(", ")[-1] in ("alone", DEFAULT)]
    lines = [
        "| bits chosen by | 3 bits | 4 bits | 6 bits | all (least-most) | better than uniform | random plans better "
        "| scores, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in sorted(wanted, key=lambda name: (name.startswith("nearest"), name)):
        own = {key[1:]: ratio for key, ratio in ratios.items() if key[0] == name}
        better = sum(ratios[key] < own[key[1:]] for key in drawn if key[1:] in own)
        seconds = seconds_of(name.removesuffix(", alone"))
        lines.append(f"| {name.removesuffix(', ' + DEFAULT)} | {cells(own)} | {better} of {len(drawn)} | {seconds} |")
    if not drawn:
        return "\n".join(lines)
    by_draw = {(model, target, number): ratios[number, model, target, 0] for number, model, target, _ in drawn}
    lines.append(f"| random plans | {cells(by_draw)} | | |")
    return "\n".join(lines)


def table_of_relevances() -> str:
    """Return a row for each stabiliser and way to sum up images: KL as a multiple of that with the default."""
    ratios = read_ratios()
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


def read_ratios() -> dict[tuple[str, str, int, int], float]:
    """Return KL as a multiple of uniform's, by (plan, model, target, seed); with the plans that comparing keeps."""
    rows = {(r["plan"], r["model"], r["target"], r["seed"]): r for r in read_results(FILE) if "plan" in r}
    for row in read_results("mixed_precision.jsonl"):
        key = (SAME_PLANS.get(row["plan"], row["plan"]), row["model"], row["target"], row["seed"])
        if not row["decide"] and row.get("sensitivity", "measured") == "measured" and key not in rows:
            rows[key] = row
    for method in MULTIPLIED:
        names = {
            "five": [f"{method} x relevance^{alpha}, {DEFAULT}" for alpha in ("1", "0.5")]
            + [f"{method}, alone", f"relevance, {DEFAULT}", "uniform"],
            "three": [f"{method} x relevance^1, {DEFAULT}", f"{method}, alone", "uniform"],
            "two": [f"{method}, alone", "uniform"],
        }
        for number, plans in names.items():
            for key in {key[1:] for key in rows if key[0] == f"{method}, alone"}:
                own = [rows[plan, *key] for plan in plans if "compared" in rows.get((plan, *key), ())]
                if len(own) == len(plans):
                    name = f"nearest of {number} with {method}, {DEFAULT}"
                    rows.setdefault((name, *key), min(own, key=lambda row: row["compared"]))
    return {key: row["kl"] / rows["uniform", *key[1:]]["kl"] for key, row in rows.items()}


def cells(ratios: Mapping[tuple[str, int, int], float]) -> str:
    """Return the means at each target and of all, and how often a plan is better than uniform bits."""
    found = [[ratio for key, ratio in ratios.items() if key[1] == target] for target in (3, 4, 6)]
    means = [f"{geometric_mean(own):.3f}" if own else "" for own in found]
    whole = list(ratios.values())
    spread = f"{geometric_mean(whole):.3f} ({min(whole):.2f}-{max(whole):.2f})"
    return f"{' | '.join(means)} | {spread} | {sum(ratio < 1 for ratio in whole)} of {len(whole)}"


def seconds_of(method: str) -> str:
    """Return the mean processor time of a method's table, model by model."""
    rows = [row for row in read_results(FILE) if row.get("method") == method and row["seconds"] > 1]
    models = dict.fromkeys(row["model"] for row in rows)
    return ", ".join(f"{statistics.mean(r['seconds'] for r in rows if r['model'] == model):.0f}" for model in models)


if __name__ == "__main__":
    main()
