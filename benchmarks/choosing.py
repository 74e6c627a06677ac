# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Cost of choosing bits, by default and with the measured table: processor seconds, float forwards, peak memory.

    python benchmarks/choosing.py --bench PATH           # one thread, each case in a process of its own
    python benchmarks/choosing.py --table                # print what was measured before

It is all of `choose_plan` at 4 bits with 256 images at hand. "Forwards" are those of the float model on all of them.
The models at 224 pixels have random weights: only time and memory are read off there. With the measured table they
would take hours, so that it is measured on 1 and on 9 images, and goes on in a straight line to 256.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from common import BENCH_MODELS, load_subject, machine, read_results, write_result
from latency import SIZES
from transformers import PreTrainedModel

from optimum_mixq import MixQConfig
from optimum_mixq.images.batches import Batch
from optimum_mixq.measurements import Measurements
from optimum_mixq.pipeline import compare_plans
from optimum_mixq.stages.allocation.propose import propose_plans
from optimum_mixq.stages.evaluation import measure_logits


FILE = "choosing.jsonl"
MODELS = ("vit-small-cifar10", "ViT-S/16", "ViT-B/16")
IMAGES = 256


def main() -> None:
    arguments = parse_arguments()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.method, arguments.images, arguments.bench)))
        return
    for model in [] if arguments.table else arguments.models:
        write_result(FILE, run(model, "gradient", IMAGES, arguments))
        if arguments.before:
            few = (IMAGES,) if model in BENCH_MODELS else (1, 9)
            for images in few:
                write_result(FILE, run(model, "measured", images, arguments))
    print(table())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, help="folder with the models and images that are not shipped")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--before", action=argparse.BooleanOptionalAction, default=True, help="the measured table too")
    parser.add_argument("--table", action="store_true", help="only print what was measured before")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # one model, in a process of its own
    parser.add_argument("--method", help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def run(model: str, method: str, images: int, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", model, "--method", method, "--images", str(images)]
    command += ["--bench", str(arguments.bench)] if arguments.bench else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row = {"model": model, "method": method, "images": images, **json.loads(done.stdout.splitlines()[-1])}
    print(row, flush=True)
    return row | {"machine": machine()}


def measure(name: str, method: str, images: int, bench: Path | None) -> dict[str, float]:
    """Return the processor seconds of each stage and of a forward of all images, and the peak of memory."""
    torch.set_num_threads(1)
    model, pixels = load(name, bench)
    forward = time_forward(model, pixels[:32]) * IMAGES / 32
    batches = [Batch(part, None, ()) for part in pixels[:images].split(32)]
    relevance_images = 64 if method == "gradient" else 256
    config = MixQConfig(bits=4, sensitivity=method, relevance_samples=relevance_images, reconstruction=None)
    measured = Measurements(model, [pixels[-32:]], batches, config)
    seconds = {"forward": forward}
    relevance = timed(seconds, "relevance", lambda: measured.relevance)
    sensitivity = timed(seconds, "sensitivity", lambda: measured.sensitivity)
    plans = propose_plans(relevance, sensitivity, measured.costs, config.budget)
    timed(seconds, "comparison", lambda: compare_plans(measured, plans))
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))[1])
    return {**seconds, "images_taken": sensitivity.images, "peak_gigabytes": peak / 1024**2}


def load(name: str, bench: Path | None) -> tuple[PreTrainedModel, torch.Tensor]:
    if name in BENCH_MODELS:
        subject = load_subject(name, bench)
        return subject.model, subject.calibration[-IMAGES - 32 :].roll(-32, 0)
    torch.manual_seed(0)
    return SIZES[name]().eval(), torch.randn(IMAGES + 32, 3, 224, 224)


def timed(seconds: dict[str, float], name: str, work: Any) -> Any:
    started = time.process_time()
    result = work()
    seconds[name] = time.process_time() - started
    return result


def time_forward(model: PreTrainedModel, pixels: torch.Tensor) -> float:
    batches = [Batch(part, None, ()) for part in pixels.split(8)]  # the fastest for the float model
    measure_logits(model, batches[:1])
    started = time.process_time()
    measure_logits(model, batches)
    return time.process_time() - started


def table() -> str:
    """Return a row per model: what choosing bits costs by default, and with the measured table."""
    lines = [
        "| model | images taken | relevance, s | sensitivity, s | comparison, s | forwards | GB "
        "| with the measured table, s | share |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows = read_results(FILE)
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        now = next(row for row in own if row["method"] == "gradient")
        whole = sum(now[stage] for stage in STAGES)
        measured = [row for row in own if row["method"] == "measured"]
        before = extrapolate(measured) if measured else None
        lines.append(
            f"| {model} | {now['images_taken']} | {' | '.join(f'{now[stage]:.0f}' for stage in STAGES)} "
            f"| {whole / now['forward']:.1f} | {now['peak_gigabytes']:.2f} "
            + ("| | |" if before is None else f"| {before:.0f} | {whole / before:.3f} |")
        )
    return "\n".join(lines)


STAGES = ("relevance", "sensitivity", "comparison")


def extrapolate(rows: list[dict[str, Any]]) -> float:
    """Return the seconds of all stages with all images, from a row with all of them or from two with fewer."""
    totals = {row["images"]: sum(row[stage] for stage in STAGES) for row in rows}
    if IMAGES in totals:
        return totals[IMAGES]
    (few, least), (more, most) = sorted(totals.items())
    return least + (most - least) / (more - few) * (IMAGES - few)


if __name__ == "__main__":
    main()
