# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Time of a forward on a GPU, against what its owner would use otherwise (`latency.py --device cuda`).

Every model runs in bfloat16, and every contender in turn; the numbers are medians, as multiples of bfloat16 compiled
with "max-autotune", which also records CUDA graphs. torchao's contenders run where torchao is installed.
"""

import copy
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from common import read_results, write_result
from latency import random_packed
from torch import Tensor
from transformers import (
    PreTrainedModel,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from optimum_mixq.kernels import choose_kernel


FILE = "latency_gpu.jsonl"
BATCHES = (1, 8, 64, 256)
REPEATS = 30
LARGE = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096, "num_hidden_layers": 24}
BASE = {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]}
SMALL = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 48, "num_hidden_layers": 1}
SIZES: dict[str, Callable[[], PreTrainedModel]] = {
    "ViT-B/16": lambda: ViTForImageClassification(ViTConfig()),
    "ViT-L/16": lambda: ViTForImageClassification(ViTConfig(**LARGE)),
    "Swin-B": lambda: SwinForImageClassification(SwinConfig(**BASE)),
    "tiny": lambda: ViTForImageClassification(ViTConfig(**SMALL, image_size=32)),  # to try the script
}
BASELINE = "bfloat16 max-autotune"


def measure_all(
    device: torch.device, sizes: list[str], batches: list[int], repeats: int, compiled: bool, file: str = FILE
) -> None:
    """Measure, write and print every size at every batch."""
    for size in sizes:
        torch.manual_seed(0)
        model = SIZES[size]().eval()
        for batch in batches:
            torch.compiler.reset()
            side = model.config.image_size
            pixels = torch.randn(batch, 3, side, side).to(device, torch.bfloat16)
            times = measure(build_contenders(model, device, compiled), pixels, repeats)
            base = times[BASELINE if compiled else "bfloat16 eager"]
            for contender, milliseconds in times.items():
                row = {
                    "model": size, "batch": batch, "contender": contender, "milliseconds": milliseconds,
                    "speedup": base / milliseconds, "machine": describe_machine(device),
                }  # fmt: skip
                write_result(file, row)
                print(f"{size} batch {batch} {contender}: {milliseconds:.2f} ms, {row['speedup']:.2f} x", flush=True)


def build_contenders(model: PreTrainedModel, device: torch.device, compiled: bool) -> dict[str, Callable]:
    """Return what is run, by name."""
    half = copy.deepcopy(model).to(device, torch.bfloat16)
    contenders: dict[str, Callable] = {"bfloat16 eager": half}
    packed = {
        name: random_packed(model, bits).to(device, torch.bfloat16)
        for name, bits in (("mixq W8A8", 8), ("mixq W4A4", 4))
    }
    contenders |= {f"{name} eager": run for name, run in packed.items()}
    if compiled:
        others = {"bfloat16": half, **packed, **torchao_models(half, device)}
        for name, run in others.items():
            contenders[f"{name} max-autotune"] = torch.compile(run, mode="max-autotune", dynamic=False)
    return contenders


def torchao_models(model: PreTrainedModel, device: torch.device) -> dict[str, PreTrainedModel]:
    """Return the model as torchao quantizes it, without calibration, by name; nothing where torchao is missing."""
    if device.type != "cuda" or importlib.util.find_spec("torchao") is None:
        return {}
    from torchao import quantization

    configurations = {"torchao int8 dynamic": quantization.Int8DynamicActivationInt8WeightConfig()}
    if torch.cuda.get_device_capability(device) >= (8, 9):  # which multiply float8
        configurations["torchao float8 dynamic"] = quantization.Float8DynamicActivationFloat8WeightConfig()
    models = {}
    for name, configuration in configurations.items():
        models[name] = copy.deepcopy(model)
        quantization.quantize_(models[name], configuration)
    return models


def measure(contenders: dict[str, Callable], pixels: Tensor, repeats: int) -> dict[str, float]:
    """Return the median milliseconds of a forward of each contender, all taking turns."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    with torch.inference_mode():
        for run in contenders.values():
            for _ in range(3):  # compiles, tunes and records
                run(pixel_values=pixels)
        for _ in range(repeats):
            for name, run in contenders.items():
                with timed(pixels.device, times[name]):
                    run(pixel_values=pixels)
    return {name: 1000 * statistics.median(seconds) for name, seconds in times.items()}


@contextmanager
def timed(device: torch.device, seconds: list[float]) -> Iterator[None]:
    """Add the seconds that a block takes on a device."""
    wait_for(device)
    started = time.perf_counter()
    yield
    wait_for(device)
    seconds.append(time.perf_counter() - started)


def wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def describe_machine(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{name}, torch {torch.__version__}, {choose_kernel(device).__name__}"


def print_table(file: str = FILE) -> None:
    print(f"\n| model | batch | contender | ms | x {BASELINE} |\n|---|---|---|---|---|")
    for row in read_results(file):
        print(
            f"| {row['model']} | {row['batch']} | {row['contender']} | {row['milliseconds']:.2f} "
            f"| {row['speedup']:.2f} |"
        )
