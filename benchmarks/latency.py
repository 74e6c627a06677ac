# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Time of a forward, interleaved in one process, as multiples of float32 eager.

    python benchmarks/latency.py                         # ViT-S, ViT-B and Swin-T sizes, one thread
    python benchmarks/latency.py --compile               # torch.compile too (minutes more)
    python benchmarks/latency.py --profile               # where the time of a packed forward goes
    python benchmarks/latency.py --memory                # what a loaded model takes
    python benchmarks/latency.py --table                 # print what was measured before
    python benchmarks/latency.py --device cuda           # on a GPU: latency_gpu.py

Weights are random: only time and memory are read off here. Each repetition runs every contender once, in turn; the
numbers are medians.
"""

import argparse
import copy
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import machine, read_results, write_result
from transformers import (
    AutoModelForImageClassification,
    PreTrainedModel,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from optimum_mixq.architectures.skeletons import Widths, insert_skeleton, packed_skeleton
from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import MixQConfig
from optimum_mixq.integration.hf_quantizer import attach
from optimum_mixq.quant.packed import PackedLinear
from optimum_mixq.quant.packed_embedding import PackedConv2d


FILE = "latency.jsonl"
# Kinds of work by the names of torch's operators, first match first.
WORK = {
    "integer products": ("qlinear", "_int_mm", "onednn"),
    "products of attention": ("bmm", "matmul"),
    "LayerNorm": ("layer_norm",),
    "GELU": ("gelu",),
    "exponentials and sums of softmax": ("exp2", "amax", "threshold", "sum", "ceil"),
    "rounding and casts": ("addcmul", "floor", "clamp", "copy_", "_to_copy", "mul", "sub", "div"),
    "residual sums": ("add",),
}
SMALL = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
SIZES: dict[str, Callable[[], PreTrainedModel]] = {
    "ViT-S/16": lambda: ViTForImageClassification(ViTConfig(**SMALL)),
    "ViT-B/16": lambda: ViTForImageClassification(ViTConfig()),
    "Swin-T": lambda: SwinForImageClassification(SwinConfig()),
}


def main() -> None:
    arguments = parse_arguments()
    if arguments.device:
        measure_on_device(arguments)
        return
    if arguments.load:
        print(json.dumps(load(arguments.load)))
        return
    if arguments.profile or arguments.memory:
        torch.set_num_threads(1)
        for size in arguments.models:
            if arguments.profile:
                profile(size)
            if arguments.memory:
                measure_memory(size)
    elif not arguments.table:
        torch.set_num_threads(arguments.threads)
        for size in arguments.models:
            for batch in arguments.batches:
                # Models of one class share torch.compile's limit of compiled variants: past it they run eagerly.
                torch.compiler.reset()
                measure(size, batch, arguments)
    print_table()


def measure_on_device(arguments: argparse.Namespace) -> None:
    import latency_gpu

    sizes = latency_gpu.SIZES
    unknown = sorted(set(arguments.models or ()) - sizes.keys())
    if unknown:
        raise SystemExit(f"Expected models of {', '.join(sizes)} with --device, found {', '.join(unknown)}.")
    if not arguments.table:
        latency_gpu.measure_all(
            torch.device(arguments.device),
            arguments.models or [size for size in sizes if size != "tiny"],
            arguments.batches or list(latency_gpu.BATCHES),
            arguments.repeats or latency_gpu.REPEATS,
            not arguments.eager,
        )
    latency_gpu.print_table()


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", help=f"of {', '.join(SIZES)}; with --device, others (latency_gpu.py)")
    parser.add_argument("--batches", nargs="+", type=int)
    parser.add_argument("--device", help="measure there, all in bfloat16, compiled too (cuda)")
    parser.add_argument("--eager", action="store_true", help="with --device: nothing compiled")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--profile", action="store_true", help="where the time of a packed forward goes")
    parser.add_argument("--memory", action="store_true", help="what a loaded model takes")
    parser.add_argument("--load", help=argparse.SUPPRESS)  # one folder, in a process of its own
    parser.add_argument("--table", action="store_true", help="only print what was measured before")
    arguments = parser.parse_args(words)
    if not arguments.device:
        arguments.models, arguments.batches = arguments.models or list(SIZES), arguments.batches or [1, 8]
        arguments.repeats = arguments.repeats or 7
        if unknown := sorted(set(arguments.models) - SIZES.keys()):
            parser.error(f"Expected models of {', '.join(SIZES)}, found {', '.join(unknown)}.")
    return arguments


def measure(size: str, batch: int, arguments: argparse.Namespace) -> None:
    torch.manual_seed(0)
    model = SIZES[size]().eval()
    pixels = torch.randn(batch, 3, 224, 224)
    contenders = build_contenders(model, arguments.compile)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    with torch.inference_mode():
        for run, dtype in contenders.values():
            run(pixel_values=pixels.to(dtype))  # warm up; compiles
        for _ in range(arguments.repeats):
            for name, (run, dtype) in contenders.items():
                started = time.perf_counter()
                run(pixel_values=pixels.to(dtype))
                times[name].append(time.perf_counter() - started)
    base = statistics.median(times["float32 eager"])
    for name, seconds in times.items():
        row = {
            "model": size, "batch": batch, "threads": arguments.threads, "contender": name,
            "milliseconds": 1000 * statistics.median(seconds), "speedup": base / statistics.median(seconds),
            "machine": machine(),
        }  # fmt: skip
        write_result(FILE, row)
        print(f"{size} batch {batch} {name}: {row['milliseconds']:.1f} ms, {row['speedup']:.2f} x", flush=True)


def build_contenders(model: PreTrainedModel, compiled: bool) -> dict[str, tuple[Callable, torch.dtype]]:
    float32, bfloat16 = torch.float32, torch.bfloat16
    dynamic = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear}, torch.qint8)
    half = copy.deepcopy(model).to(bfloat16)
    packed = {bits: random_packed(model, bits) for bits in (8, 4)}
    mixed_plan = {name: 3 + index % 4 for index, name in enumerate(BitPlan.uniform(model, 4).bits)}
    contenders: dict[str, tuple[Callable, torch.dtype]] = {
        "float32 eager": (model, float32),
        "bfloat16 eager": (half, bfloat16),
        "torch dynamic int8": (dynamic, float32),
        "mixq W8A8 eager": (packed[8], float32),
        "mixq W4A4 eager": (packed[4], float32),
        "mixq mixed 3-6 eager": (random_packed(model, mixed_plan), float32),
        "mixq W4A4 bfloat16 eager": (copy.deepcopy(packed[4]).to(bfloat16), bfloat16),
    }
    if compiled:
        for name in ("float32", "bfloat16", "mixq W8A8", "mixq W4A4", "mixq mixed 3-6", "mixq W4A4 bfloat16"):
            run, dtype = contenders[f"{name} eager"]
            contenders[f"{name} compiled"] = (torch.compile(run), dtype)
    return contenders


def profile(size: str, batch: int = 8) -> None:
    """Write the share of a packed W4A4 forward's time that each kind of work takes."""
    torch.manual_seed(0)
    model = random_packed(SIZES[size]().eval(), 4)
    pixels = torch.randn(batch, 3, 224, 224)
    with torch.inference_mode():
        model(pixel_values=pixels)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
            model(pixel_values=pixels)
    shares: dict[str, float] = dict.fromkeys([*WORK, "the rest"], 0.0)
    for event in recorded.key_averages():
        kind = next((kind for kind, words in WORK.items() if any(word in event.key for word in words)), "the rest")
        shares[kind] += event.self_cpu_time_total
    total = sum(shares.values())
    row = {"model": size, "batch": batch, "shares": {kind: time / total for kind, time in shares.items()}}
    write_result("latency_profile.jsonl", row | {"machine": machine()})
    print(row, flush=True)


def measure_memory(size: str) -> None:
    """Write by how many megabytes a fresh process grows that loads a model, float or packed, and runs an image."""
    torch.manual_seed(0)
    model = SIZES[size]().eval()
    grown = {}
    for name, contender in (("float32", model), ("mixq W4A4", random_packed(model, 4))):
        with tempfile.TemporaryDirectory() as folder:
            contender.save_pretrained(folder)
            command = [sys.executable, __file__, "--load", folder]
            grown[name] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    write_result("latency_memory.jsonl", {"model": size, "megabytes": grown, "machine": machine()})
    print(size, grown, flush=True)


def load(folder: str) -> float:
    torch.set_num_threads(1)
    # What is imported at the first model is not the model's.
    warm = ViTForImageClassification(ViTConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2)).eval()
    with torch.inference_mode():
        warm(pixel_values=torch.zeros(1, 3, 224, 224))
        before = resident_megabytes()
        model = AutoModelForImageClassification.from_pretrained(folder)
        model(pixel_values=torch.zeros(1, 3, 224, 224))
    return resident_megabytes() - before


def resident_megabytes() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def random_packed(model: PreTrainedModel, bits: int | dict[str, int]) -> PreTrainedModel:
    """Return a packed model with arbitrary codes: as fast as a calibrated one."""
    packed = copy.deepcopy(model)
    plan = BitPlan.uniform(model, bits) if isinstance(bits, int) else BitPlan(bits)
    config = MixQConfig(plan=plan.bits)
    insert_skeleton(packed, packed_skeleton(packed, Widths(plan.bits, config.stem_and_head_bits, config.arithmetic)))
    attach(packed, plan, config)
    generator = torch.Generator().manual_seed(0)
    for name, buffer in packed.named_buffers():
        if buffer.dtype == torch.uint8:
            buffer.random_(0, 256 if name.endswith(("weight", "codes")) else 2, generator=generator)
        elif name.endswith("scale") and "mixq_" in name:
            buffer.copy_(torch.full(buffer.shape, 0.05, dtype=torch.float16).view(torch.int16))
    for module in packed.modules():
        if isinstance(module, (PackedLinear, PackedConv2d)):
            module.prepare()
    return packed.eval()


def print_table() -> None:
    rows = read_results(FILE)
    print("\n| model | batch | threads | contender | ms | x float32 eager |\n|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['model']} | {row['batch']} | {row['threads']} | {row['contender']} | {row['milliseconds']:.1f} "
            f"| {row['speedup']:.2f} |"
        )


if __name__ == "__main__":
    main()
