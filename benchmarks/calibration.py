# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Cost of calibration at full size: forwards of the float model on the same 32 images, and peak memory.

    python benchmarks/calibration.py                     # ViT-S, ViT-B and Swin-T sizes at 224 pixels, one thread
    python benchmarks/calibration.py --table             # print what was measured before

Weights are random: only time and memory are read off here. Forwards are timed before and after, in the same process.
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
from common import machine, read_results, write_result
from latency import SIZES

from optimum_mixq import BitPlan, MixQConfig, quantize_model


FILE = "calibration.jsonl"


def main() -> None:
    arguments = parse_arguments()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    for size in [] if arguments.table else arguments.models:
        command = [sys.executable, __file__, "--one", size]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = {"model": size, **json.loads(done.stdout.splitlines()[-1]), "machine": machine()}
        write_result(FILE, row)
    for row in read_results(FILE):
        print(f"{row['model']}: {row['forwards']:.1f} forwards, peak {row['peak_gigabytes']:.2f} GB")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--table", action="store_true", help="only print what was measured before")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # one size, in a process of its own
    return parser.parse_args()


def measure(size: str, images: int = 32) -> dict[str, float]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = SIZES[size]().eval()
    pixels = torch.randn(images, 3, 224, 224)
    forwards = [time_forward(model, pixels) for _ in range(2)][1:]
    started = time.perf_counter()
    quantize_model(model, BitPlan.uniform(model, 4), [pixels], MixQConfig(bits=4, reconstruction=None))
    seconds = time.perf_counter() - started
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))[1])
    forwards.append(time_forward(model, pixels))
    return {"forwards": seconds / statistics.mean(forwards), "seconds": seconds, "peak_gigabytes": peak / 1024**2}


def time_forward(model: torch.nn.Module, pixels: torch.Tensor) -> float:
    with torch.inference_mode():
        started = time.perf_counter()
        for part in pixels.split(8):  # batches of 8 are the fastest for the float model
            model(pixel_values=part)
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
