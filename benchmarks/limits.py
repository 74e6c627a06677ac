# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What limits few bits: one kind of unit at a time, with its inputs or its weights back at 8 bits.

    python benchmarks/limits.py --bench PATH     # measure and print the table
    python benchmarks/limits.py --table          # print what was measured before

All other units keep W3A3. Models are calibrated on 128 images and judged on the first half of the evaluation images,
on which defaults are chosen: this is for finding what to mend.
"""

import argparse
import statistics
from pathlib import Path

import torch
from common import BENCH_MODELS, Subject, load_subject, logits_of, machine, read_results, write_result

from optimum_mixq import DEMO_MODELS
from optimum_mixq.architectures.describe import describe
from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import MixQConfig
from optimum_mixq.pipeline import quantize_model
from optimum_mixq.stages.evaluation import score
from optimum_mixq.utils.bits import Bits


FILE = "limits.jsonl"
NONE, INPUTS, WEIGHTS = "nothing", "inputs", "weights"


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    for name in [] if arguments.table else arguments.models:
        subject = load_subject(name, arguments.bench)
        for seed in arguments.seeds:
            measure(subject, arguments.bits, arguments.images, seed)
    print(table())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, help="folder with the models and images that are not shipped")
    parser.add_argument("--models", nargs="+", default=[*DEMO_MODELS, *BENCH_MODELS])
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument("--images", type=int, default=500, help="to judge by, at most")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--table", action="store_true", help="only print what was measured before")
    return parser.parse_args()


def measure(subject: Subject, bits: int, most: int, seed: int) -> None:
    """Write KL and top-1 with one thing after another at 8 bits."""
    calibration = subject.calibration.roll(-32 * seed, 0)[:128].split(32)
    count = min(most, len(subject.labels) // 2)
    pixels, labels = subject.evaluation[:count], subject.labels[:count]
    reference = logits_of(subject.model, pixels)
    for kind, part in spared_parts(subject):
        plan = sparing_plan(subject, bits, kind, part)
        packed = quantize_model(subject.model, plan, calibration, MixQConfig(bits=bits, reconstruction=None))
        result = score(logits_of(packed, pixels), labels, reference)
        row = {
            "model": subject.name, "bits": bits, "spared": part, "kind": kind, "seed": seed, "kl": result.kl,
            "top1": 100 * result.accuracy, "float_top1": 100 * score(reference, labels).accuracy,
            "images": count, "machine": machine(),
        }  # fmt: skip
        write_result(FILE, row)
        print(row, flush=True)


def spared_parts(subject: Subject) -> list[tuple[str, str]]:
    """Return pairs of a kind of unit and what of it gets 8 bits; of "all" units, too."""
    units = describe(subject.model).units
    kinds = list(dict.fromkeys(unit.kind for unit in units))
    layers = list(dict.fromkeys(unit.kind for unit in units if not unit.is_matmul))
    inputs = [(kind, INPUTS) for kind in [*kinds, "all"]]
    return [("all", NONE), *inputs, *((kind, WEIGHTS) for kind in [*layers, "all"])]


def sparing_plan(subject: Subject, bits: int, kind: str, part: str) -> BitPlan:
    """Return the plan of uniform bits, with 8 for one part of the units of a kind. Matmuls have inputs only."""
    spared = {NONE: Bits(bits, bits), INPUTS: Bits(bits, 8), WEIGHTS: Bits(8, bits)}[part]
    plan = {}
    for unit in describe(subject.model).units:
        own = spared if kind in ("all", unit.kind) else Bits(bits, bits)
        plan[unit.name] = Bits(own.activation, own.activation) if unit.is_matmul else own
    return BitPlan(plan)


def table() -> str:
    """Return a row for each part that is spared: how much of the KL is left."""
    rows = read_results(FILE)
    models = list(dict.fromkeys(row["model"] for row in rows))
    lines = [f"| at 8 bits | {' | '.join(models)} |", "|---|" + "---|" * len(models)]
    for kind, part in dict.fromkeys((row["kind"], row["spared"]) for row in rows):
        named = part if part == NONE else f"{part} of {kind}"
        lines.append(f"| {named} | {' | '.join(_cell(rows, model, kind, part) for model in models)} |")
    return "\n".join(lines)


def _cell(rows: list[dict], model: str, kind: str, part: str) -> str:
    own = [row for row in rows if (row["model"], row["kind"], row["spared"]) == (model, kind, part)]
    if not own:
        return ""
    return f"{statistics.mean(row['kl'] for row in own):.4f} / {statistics.mean(row['top1'] for row in own):.1f}"


if __name__ == "__main__":
    main()
