# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Cost and stability of relevance.

    python benchmarks/relevance.py --cost                # time and memory, random weights, one thread
    python benchmarks/relevance.py --stability --bench PATH
    python benchmarks/relevance.py --table               # print what was measured before

Cost is given per batch of 32 images as a multiple of one plain forward and backward (gradients of all weights) of the
same model, timed in turn. Stability is Spearman's rank correlation between the scores of two disjoint sets of images,
and between the first 32 images and all of them.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from common import BENCH_MODELS, Subject, load_subject, machine, read_results, write_result
from latency import SIZES

from optimum_mixq import DEMO_MODELS
from optimum_mixq.images.batches import Batch
from optimum_mixq.stages.relevance.measure import measure_relevance


FILE = "relevance.jsonl"


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    if arguments.memory:
        print(json.dumps(measure_memory(arguments.memory)))
        return
    if arguments.cost:
        for size in SIZES:
            measure_cost(size, arguments.repeats)
    if arguments.stability:
        for name in [*BENCH_MODELS, *DEMO_MODELS] if arguments.bench else DEMO_MODELS:
            measure_stability(load_subject(name, arguments.bench))
    print_tables()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, help="folder with the models and images that are not shipped")
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--stability", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="only print what was measured before")
    parser.add_argument("--memory", help=argparse.SUPPRESS)  # one size, in a process of its own
    return parser.parse_args()


def measure_cost(size: str, repeats: int, images: int = 32) -> None:
    torch.manual_seed(0)
    model = SIZES[size]().eval()
    batch = Batch(torch.randn(images, 3, 224, 224), None, ())
    ratios, plain_seconds = [], []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        model(pixel_values=batch.pixel_values).logits.amax(-1).sum().backward()
        plain = time.perf_counter() - started
        model.zero_grad()
        started = time.perf_counter()
        measure_relevance(model, [batch])
        ratios.append((time.perf_counter() - started) / plain)
        plain_seconds.append(plain)
    command = [sys.executable, __file__, "--memory", size]
    memory = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    row = {
        "kind": "cost", "model": size, "ratio": statistics.median(ratios[1:]),
        "plain_seconds": statistics.median(plain_seconds[1:]), "megabytes_per_image": memory, "machine": machine(),
    }  # fmt: skip
    write_result(FILE, row)
    print(row, flush=True)


def measure_memory(size: str, images: int = 8) -> float:
    """Return the megabytes per image by which the peak memory of a fresh process rises."""
    torch.manual_seed(0)
    model = SIZES[size]().eval()
    with torch.no_grad():
        model(pixel_values=torch.randn(1, 3, 224, 224))
    before = peak_megabytes()
    measure_relevance(model, [Batch(torch.randn(images, 3, 224, 224), None, ())])
    return (peak_megabytes() - before) / images


def peak_megabytes() -> float:
    """Return the peak of this process' resident memory; getrusage would hand on the parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def measure_stability(subject: Subject) -> None:
    pixels = torch.cat([subject.calibration, subject.evaluation])[:512]

    def scores(images: torch.Tensor) -> torch.Tensor:
        result = measure_relevance(subject.model, [Batch(part, None, ()) for part in images.split(32)])
        return torch.tensor(list(result.scores.values()), dtype=torch.float64)

    halves = scores(pixels[:256]), scores(pixels[256:])
    whole = (halves[0] + halves[1]) / 2
    row = {
        "kind": "stability", "model": subject.name, "images": len(pixels),
        "spearman_halves_256": spearman(*halves), "spearman_32_to_all": spearman(scores(pixels[:32]), whole),
    }  # fmt: skip
    write_result(FILE, row)
    print(row, flush=True)


def spearman(first: torch.Tensor, second: torch.Tensor) -> float:
    ranks = torch.stack([values.argsort().argsort().double() for values in (first, second)])
    return float(torch.corrcoef(ranks)[0, 1])


def print_tables() -> None:
    rows = read_results(FILE)
    print("\n| model | x forward and backward | MB per image |\n|---|---|---|")
    for row in (row for row in rows if row["kind"] == "cost"):
        print(f"| {row['model']} | {row['ratio']:.2f} | {row['megabytes_per_image']:.0f} |")
    print("\n| model | Spearman, two sets of 256 images | Spearman, 32 against 512 images |\n|---|---|---|")
    for row in (row for row in rows if row["kind"] == "stability"):
        print(f"| {row['model']} | {row['spearman_halves_256']:.3f} | {row['spearman_32_to_all']:.3f} |")


if __name__ == "__main__":
    main()
