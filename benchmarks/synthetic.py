# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What it costs to calibrate on images that are made from the model, at uniform bits.

    python benchmarks/synthetic.py --bench PATH     # measure and print the table
    python benchmarks/synthetic.py --table          # print what was measured before

Seed s calibrates on the images from 32 s on, and on generated images 32 s to 32 s + 31. Each model is packed, and
judged on the second half of the evaluation images. Seconds are processor time of making 32 images.
"""

import argparse
import statistics
import time
from dataclasses import dataclass
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
    top1_and_divergence,
    write_result,
)
from transformers import AutoImageProcessor

from optimum_mixq import demo_model_path
from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import MixQConfig
from optimum_mixq.images.sources import open_images
from optimum_mixq.pipeline import quantize_model
from optimum_mixq.stages.evaluation import score


FILE = "synthetic.jsonl"
IMAGES = 32
SOURCES = ("images", "noise", "synthetic")


@dataclass(frozen=True)
class Judge:
    """The images that judge, with the float model's logits."""

    pixels: torch.Tensor
    labels: torch.Tensor
    reference: torch.Tensor


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    for name in [] if arguments.table else arguments.models:
        subject = load_subject(name, arguments.bench)
        half = len(subject.labels) // 2
        pixels, labels = subject.evaluation[half:][: arguments.count], subject.labels[half:][: arguments.count]
        judge = Judge(pixels, labels, logits_of(subject.model, pixels))
        for seed in arguments.seeds:
            for source in arguments.sources:
                started = time.process_time()
                images = take_images(subject, source, seed, arguments.bench)
                seconds = time.process_time() - started
                for bits in arguments.bits:
                    row = {"source": source, "seed": seed, "seconds": seconds, **measure(subject, images, bits, judge)}
                    write_result(FILE, row)
                    print(row, flush=True)
    print(table())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, help="folder with the models and images that are not shipped")
    parser.add_argument("--models", nargs="+", default=[*BENCH_MODELS])
    parser.add_argument("--bits", nargs="+", type=int, default=[8, 4])
    parser.add_argument("--sources", nargs="+", default=[*SOURCES], choices=SOURCES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--count", type=int, help="judge by the first so many images alone")
    parser.add_argument("--table", action="store_true", help="only print what was measured before")
    return parser.parse_args()


def take_images(subject: Subject, source: str, seed: int, bench: Path | None) -> torch.Tensor:
    rows = range(IMAGES * seed, IMAGES * seed + IMAGES)
    if source == "images":
        return subject.calibration[rows.start : rows.stop]
    folder = demo_model_path(subject.name) if bench is None else bench / subject.name
    processor = AutoImageProcessor.from_pretrained(folder)
    return next(open_images(source, subject.model, processor).batches(rows, IMAGES)).pixel_values


def measure(subject: Subject, images: torch.Tensor, bits: int, judge: Judge) -> dict[str, Any]:
    config = MixQConfig(bits=bits, reconstruction=None)
    packed = quantize_model(subject.model, BitPlan.uniform(subject.model, bits), [images], config)
    result = score(logits_of(packed, judge.pixels), judge.labels, judge.reference)
    return {
        "model": subject.name, "bits": bits, "images": result.images,
        "float_top1": 100 * score(judge.reference, judge.labels).accuracy, "top1": 100 * result.accuracy,
        "agreement": 100 * result.agreement, "kl": result.kl, "machine": machine(),
    }  # fmt: skip


def table() -> str:
    """Return a row for each model and width: top-1 and KL by what it was calibrated on."""
    rows = read_results(FILE)
    lines = [f"| model | W/A | seeds | {' | '.join(SOURCES)} | s for {IMAGES} images |", "|---" * 7 + "|"]
    for model, bits in dict.fromkeys((row["model"], row["bits"]) for row in rows):
        own = [row for row in rows if (row["model"], row["bits"]) == (model, bits)]
        cells = " | ".join(top1_and_divergence([row for row in own if row["source"] == source]) for source in SOURCES)
        seconds = [row["seconds"] for row in own if row["source"] == "synthetic"]
        seeds = len({row["seed"] for row in own})
        told = f"{statistics.median(seconds):.0f}" if seconds else ""
        lines.append(f"| {model} | {bits}/{bits} | {seeds} | {cells} | {told} |")
    floats = ", ".join(f"{name} {top1:.1f} %" for name, top1 in {r["model"]: r["float_top1"] for r in rows}.items())
    counts = sorted({row["images"] for row in rows})
    return "\n".join([*lines, "", f"Top-1 in percent / KL to float. Float: {floats}. Evaluation images: {counts}."])


if __name__ == "__main__":
    main()
