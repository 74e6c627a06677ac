# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Accuracy by the number of calibration images, with and without reconstruction.

    python benchmarks/reconstruction.py --bench PATH            # measure uniform bits and print the tables
    python benchmarks/reconstruction.py --bench PATH --mixed    # measure the plans of mixed_precision.py
    python benchmarks/reconstruction.py --table                 # print what was measured before

Seed s calibrates on the images from 32 s on, in a circle, or on all where there are fewer (256 are shipped). Each
model is packed, and judged on the second half of the evaluation images; the defaults were chosen on the first.
"Forwards" are those of the float model on the same images, in processor time.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from common import (
    BENCH_MODELS,
    Subject,
    load_subject,
    logits_of,
    machine,
    read_results,
    spread,
    write_result,
)

from optimum_mixq import DEMO_MODELS
from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import MixQConfig
from optimum_mixq.pipeline import quantize_model
from optimum_mixq.stages.evaluation import score
from optimum_mixq.utils.bits import Bits


FILE = "reconstruction.jsonl"
# The options that the ways stand for.
WAYS: dict[str, dict[str, str | None]] = {
    "none": {"reconstruction": None},
    "light": {"reconstruction": "light"},
    "full": {"reconstruction": "full", "reconstruction_loss": "output"},
    "full by logits": {"reconstruction": "full", "reconstruction_loss": "logits"},
}


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    for name in [] if arguments.table else arguments.models:
        subject = load_subject(name, arguments.bench)
        counts = sorted({min(count, len(subject.calibration)) for count in arguments.images})
        for seed in arguments.seeds:
            for bits in arguments.bits:
                for arithmetic in arguments.arithmetic:
                    for images in counts:
                        for way in arguments.ways:
                            config = MixQConfig(
                                bits=bits, arithmetic=arithmetic, **WAYS[way],
                                stem_and_head_bits=arguments.ends or 8,
                            )  # fmt: skip
                            plan = mixed_plan(name, bits, seed) if arguments.mixed else None
                            measure(subject, way, config, plan, images, seed, arguments.decide)
    print(table(), mixed_table(), sep="\n\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, help="folder with the models and images that are not shipped")
    parser.add_argument("--models", nargs="+", default=[*BENCH_MODELS, *DEMO_MODELS])
    parser.add_argument("--bits", nargs="+", type=int, default=[4, 3])
    parser.add_argument("--arithmetic", nargs="+", default=["column", "folded"])
    parser.add_argument("--images", nargs="+", type=int, default=[32, 128, 512], help="to calibrate on")
    parser.add_argument("--ways", nargs="+", default=["none", "light"], choices=list(WAYS))
    parser.add_argument("--mixed", action="store_true", help="mixed plans, which mixed_precision.py chose before")
    parser.add_argument("--ends", type=int, help="bits of patch embedding and head")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--decide", action="store_true", help="judge by the images that defaults are chosen on")
    parser.add_argument("--table", action="store_true", help="only print what was measured before")
    return parser.parse_args()


def mixed_plan(model: str, target: int, seed: int) -> BitPlan:
    """Return the plan that was chosen last for a model, an average of bits and a seed."""
    wanted = {"model": model, "target": target, "seed": seed, "plan": "default", "decide": False}
    wanted["sensitivity"] = MixQConfig().sensitivity
    *_, row = (row for row in read_results("mixed_precision.jsonl") if wanted.items() <= row.items())
    return BitPlan({unit: Bits(*bits) for unit, bits in row["bits"].items()})


def measure(
    subject: Subject, way: str, config: MixQConfig, mixed: BitPlan | None, count: int, seed: int, decide: bool
) -> None:
    images = subject.calibration.roll(-32 * seed, 0)[:count]
    half = len(subject.labels) // 2
    part = slice(None, half) if decide else slice(half, None)
    pixels, labels = subject.evaluation[part], subject.labels[part]
    forward = time_forward(subject.model, images)
    started = time.process_time()
    plan = mixed or BitPlan.uniform(subject.model, config.bits)
    packed = quantize_model(subject.model, plan, images.split(32), config)
    seconds = time.process_time() - started
    reference = logits_of(subject.model, pixels)
    result = score(logits_of(packed, pixels), labels, reference)
    row = {
        "model": subject.name, "bits": config.bits, "arithmetic": config.arithmetic, "calibration": count,
        "way": way, "ends": config.stem_and_head_bits, "seed": seed,
        "plan": "mixed" if mixed else "uniform", "judged": "decide" if decide else "report",
        "float_top1": 100 * score(reference, labels).accuracy, "top1": 100 * result.accuracy, "kl": result.kl,
        "images": result.images, "seconds": seconds,
        "forwards": seconds / forward, "machine": machine(),
    }  # fmt: skip
    write_result(FILE, row)
    print(row, flush=True)


def time_forward(model: torch.nn.Module, images: torch.Tensor) -> float:
    started = time.process_time()
    logits_of(model, images)
    return time.process_time() - started


def table() -> str:
    """Return a row for each model, width, arithmetic and way: top-1 and KL by the number of images."""
    rows = _rows("uniform")
    counts = sorted({row["calibration"] for row in rows})
    heads = " | ".join(f"{count} images" for count in counts)
    lines = [
        f"| model | W/A | arithmetic | ends | reconstruction | {heads} | seeds | forwards |",
        "|---" * (7 + len(counts)) + "|",
    ]
    for case in sorted({_case(row) for row in rows}, key=_order):
        own = [row for row in rows if _case(row) == case]
        model, bits, arithmetic, ends, way = case
        cells = [_cell([row for row in own if row["calibration"] == count]) for count in counts]
        seeds = len({row["seed"] for row in own})
        forwards = statistics.median(row["forwards"] for row in own)
        told = f"| {model} | {bits}/{bits} | {arithmetic} | {ends} | {way} |"
        lines.append(f"{told} {' | '.join(cells)} | {seeds} | {forwards:.0f} |")
    floats = {row["model"]: row["float_top1"] for row in rows}
    told = ", ".join(f"{model} {top1:.1f} %" for model, top1 in floats.items())
    return "\n".join([*lines, "", f"Top-1 in percent / KL, means and ranges of KL over the seeds. Float: {told}."])


def mixed_table() -> str:
    """Return a row for each model and average of bits: uniform and mixed bits, from the same images and seeds."""
    mixed, uniform = _rows("mixed"), _rows("uniform")
    lines = ["| model | bits | reconstruction | images | uniform | mixed | seeds |", "|---" * 7 + "|"]
    for case, count in sorted({(_case(row), row["calibration"]) for row in mixed}, key=lambda key: _order(key[0])):
        own = {row["seed"]: row for row in mixed if (_case(row), row["calibration"]) == (case, count)}
        rival = {row["seed"]: row for row in uniform if (_case(row), row["calibration"]) == (case, count)}
        seeds = sorted(own.keys() & rival.keys())
        cells = " | ".join(_cell([rows[seed] for seed in seeds]) for rows in (rival, own))
        lines.append(f"| {case[0]} | {case[1]} | {case[4]} | {count} | {cells} | {len(seeds)} |")
    return "\n".join([*lines, "", "Top-1 in percent / KL, means and ranges of KL over the seeds."])


def default_accuracy(plan: str, model: str, bits: int) -> float:
    """Return top-1 of uniform or mixed bits with the defaults of the package, the mean over the seeds."""
    config = MixQConfig()
    wanted = {
        "model": model, "bits": bits, "arithmetic": config.arithmetic, "calibration": config.calibration_samples,
        "way": config.reconstruction, "ends": config.stem_and_head_bits,
    }  # fmt: skip
    return statistics.mean(row["top1"] for row in _rows(plan) if wanted.items() <= row.items())


def _rows(plan: str) -> list[dict[str, Any]]:
    """Return what was judged by the images that no default was chosen on; the first rows say nothing of plans."""
    rows = read_results(FILE)
    return [row for row in rows if row["judged"] == "report" and row.get("plan", "uniform") == plan]


def _case(row: dict) -> tuple[str, int, str, int, str]:
    return row["model"], row["bits"], row["arithmetic"], row["ends"], row["way"]


def _order(case: tuple[str, int, str, int, str]) -> tuple[int, int, str, int, int]:
    model, bits, arithmetic, ends, way = case
    return [*DEMO_MODELS, *BENCH_MODELS].index(model), -bits, arithmetic, -ends, list(WAYS).index(way)


def _cell(rows: list[dict]) -> str:
    if not rows:
        return ""
    top1, divergences = statistics.mean(row["top1"] for row in rows), [row["kl"] for row in rows]
    if len(rows) == 1:
        return f"{top1:.1f} / {divergences[0]:.3f}"
    return f"{top1:.1f} / {spread(divergences, 3)}"


if __name__ == "__main__":
    main()
