# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Packed models in inference engines, beside what the engines' own tools make of the same float model.

    python benchmarks/deployment.py                      # speed and sizes: ViT-B, ViT-S and Swin-T, random weights
    python benchmarks/deployment.py --compile            # torch.compile too (minutes more)
    python benchmarks/deployment.py --accuracy --bench PATH   # top-1 and KL of what runs in the engines
    python benchmarks/deployment.py --attention --bench PATH  # the two ways to run attention

Beside the extras `onnx` and `openvino`, the peer of OpenVINO needs nncf; without it that contender is left out.
All contenders of one model and batch size take turns in one process, on one thread; the numbers are medians.
"""

import argparse
import copy
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import BENCH_MODELS, load_subject, logits_of, machine, write_result
from latency import SIZES, random_packed
from numpy.typing import NDArray
from transformers import PreTrainedModel

from optimum_mixq import DEMO_MODELS, BitPlan, MixQConfig
from optimum_mixq.architectures.describe import configured_image_size
from optimum_mixq.export.conversion import convert, integer_products
from optimum_mixq.export.targets import target_of
from optimum_mixq.export.tracing import INPUT, trace
from optimum_mixq.export.weights import lay_out_weights
from optimum_mixq.pipeline import quantize_model
from optimum_mixq.tasks import task_of


SPEED_FILE, ACCURACY_FILE, ATTENTION_FILE = (
    "deployment.jsonl",
    "deployment_accuracy.jsonl",
    "deployment_attention.jsonl",
)
PIXELS = (3, 224, 224)
Run = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Contender:
    """What runs pixels, and how many megabytes its files have."""

    run: Run
    megabytes: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--bits", nargs="+", type=int, default=[8, 4], help="widths of the packed models")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--accuracy", action="store_true", help="top-1 and KL instead of speed")
    parser.add_argument("--attention", action="store_true", help="KL of both ways to run attention")
    parser.add_argument("--bench", type=Path, help="folder with the models and images that are not shipped")
    parser.add_argument("--subjects", nargs="+", default=[*DEMO_MODELS, *BENCH_MODELS], help="models for accuracy")
    parser.add_argument("--images", type=int, default=1000, help="to evaluate on")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.accuracy or arguments.attention:
        for name in arguments.subjects:
            measure = measure_accuracy if arguments.accuracy else measure_attention
            measure(name, arguments.bench, arguments.images)
        return
    for size in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            measure_speed(size, Path(folder), arguments)


def measure_speed(size: str, folder: Path, arguments: argparse.Namespace) -> None:
    """Write the time of a forward of every contender, and its files' size."""
    torch.manual_seed(0)
    model = SIZES[size]().eval()
    contenders = pytorch_contenders(model, arguments.bits, arguments.compile)
    calibration = np.random.default_rng(0).standard_normal((8, *PIXELS), dtype=np.float32)
    contenders |= engine_contenders(model, calibration, folder)
    for bits in arguments.bits:
        contenders |= packed_contenders(random_packed(model, bits), f"mixq W{bits}A{bits}", folder)
    for batch in arguments.batches:
        pixels = np.random.default_rng(1).standard_normal((batch, *PIXELS), dtype=np.float32)
        times = take_turns({name: contender.run for name, contender in contenders.items()}, pixels, arguments.repeats)
        for name, seconds in times.items():
            row = {
                "model": size, "batch": batch, "threads": 1, "contender": name,
                "milliseconds": 1000 * statistics.median(seconds), "megabytes": contenders[name].megabytes,
                "machine": machine(), "engines": versions(),
            }  # fmt: skip
            write_result(SPEED_FILE, row)
            print(f"{size} batch {batch} {name}: {row['milliseconds']:.1f} ms, {row['megabytes']} MB", flush=True)


def take_turns(runs: dict[str, Run], pixels: NDArray[Any], repeats: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for run in runs.values():
            run(pixels)  # warm up; compiles
        for _ in range(repeats):
            for name, run in runs.items():
                started = time.perf_counter()
                run(pixels)
                times[name].append(time.perf_counter() - started)
    return times


def pytorch_contenders(model: PreTrainedModel, widths: list[int], compiled: bool) -> dict[str, Contender]:
    half = copy.deepcopy(model).to(torch.bfloat16)
    models = {"PyTorch float32": model, "PyTorch bfloat16": half}
    models |= {f"mixq W{bits}A{bits} PyTorch": random_packed(model, bits) for bits in widths}
    runs: dict[str, tuple[Any, torch.dtype]] = {name: (found, found.dtype) for name, found in models.items()}
    if compiled:
        torch.compiler.reset()
        runs |= {f"{name} compiled": (torch.compile(found), found.dtype) for name, found in models.items()}

    def contender(run: Any, dtype: torch.dtype) -> Contender:
        return Contender(lambda pixels: run(pixel_values=torch.from_numpy(pixels).to(dtype)).logits.float().numpy())

    return {name: contender(*found) for name, found in runs.items()}


def packed_contenders(packed: PreTrainedModel, name: str, folder: Path) -> dict[str, Contender]:
    """Return a packed model in both engines, with codes as small as their bits.

    The check of an export is left out: logits of random codes change altogether with the last digit of any sum.
    """
    found = {}
    for target, engine in (("onnx", "ONNX Runtime"), ("openvino", "OpenVINO")):
        place = folder / f"{name} {target}"
        place.mkdir()
        chosen = target_of(target)
        converted = convert(packed, "integer", chosen.as_matrices)
        program = trace(converted, torch.zeros(2, 3, *configured_image_size(packed)))
        lay_out_weights(program, converted, "codes")
        chosen.write(program, place)
        products = chosen.load(place).integer_products()
        if products != integer_products(converted):
            raise SystemExit(f"{name} {engine}: {products} of {integer_products(converted)} products are integers.")
        found |= load_contenders(f"{name} {engine}", target, place, megabytes(place))
    return found


def engine_contenders(model: PreTrainedModel, calibration: NDArray[Any], folder: Path) -> dict[str, Contender]:
    """Return the float model in both engines, and what their own tools quantize it to."""
    plain = copy.deepcopy(model)
    plain.set_attn_implementation("eager")  # what torch.onnx makes of fused attention tests for NaN in each row
    program, found = trace(plain, torch.from_numpy(calibration[:2])), {}
    for target, engine in (("onnx", "ONNX Runtime"), ("openvino", "OpenVINO")):
        place = folder / f"float {target}"
        place.mkdir()
        target_of(target).write(program, place)
        found |= load_contenders(f"float {engine}", target, place, megabytes(place))
    found |= onnxruntime_static(folder / "float onnx", calibration, folder / "static")
    if importlib.util.find_spec("nncf") is not None:
        found |= nncf_openvino(folder / "float openvino", calibration, folder / "nncf")
    return found


def load_contenders(name: str, target: str, folder: Path, size: float) -> dict[str, Contender]:
    """Return a file in its engine; in OpenVINO with float32 and with bfloat16 between the integer products."""
    if target == "onnx":
        return {name: Contender(runner(target_of(target).load(folder).run), size)}
    import openvino

    found = {}
    for precision in ("f32", "bf16"):
        options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": precision}
        compiled = openvino.Core().compile_model(folder / "openvino_model.xml", "CPU", options)
        label = name if precision == "f32" else f"{name} bfloat16"
        found[label] = Contender(lambda pixels, compiled=compiled: compiled([pixels])[0], size)
    return found


def runner(run: Callable[[NDArray[Any]], Any]) -> Run:
    return lambda pixels: run(pixels)["logits"]


def onnxruntime_static(source: Path, calibration: NDArray[Any], folder: Path) -> dict[str, Contender]:
    """Return what ONNX Runtime's static quantization makes: QDQ, uint8 activations, int8 weights per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows: Iterator[NDArray[Any]] = iter(calibration)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            row = next(self.rows, None)
            return None if row is None else {INPUT: row[None]}

    folder.mkdir()
    prepared = folder / "prepared.onnx"
    quant_pre_process(source / "model.onnx", prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared, folder / "model.onnx", Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    prepared.unlink()
    return load_contenders("ONNX Runtime static W8A8", "onnx", folder, megabytes(folder))


def nncf_openvino(source: Path, calibration: NDArray[Any], folder: Path) -> dict[str, Contender]:
    """Return what NNCF's quantization for transformers makes of the float model in OpenVINO."""
    import nncf
    import openvino

    folder.mkdir()
    model = openvino.Core().read_model(source / "openvino_model.xml")
    images = nncf.Dataset([row[None] for row in calibration], lambda row: {INPUT: row})
    quantized = nncf.quantize(model, images, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(calibration))
    openvino.save_model(quantized, folder / "openvino_model.xml", compress_to_fp16=False)
    return load_contenders("NNCF W8A8 OpenVINO", "openvino", folder, megabytes(folder))


def measure_accuracy(name: str, bench: Path | None, images: int, widths: tuple[int, ...] = (8, 6, 5, 4, 3, 2)) -> None:
    """Write top-1 and the KL to the float model of what runs in the engines, and of the packed model in PyTorch."""
    subject = load_subject(name, bench)
    pixels, labels = subject.evaluation[-images:], subject.labels[-images:]
    reference = logits_of(subject.model, pixels)

    def write(contender: str, logits: torch.Tensor) -> None:
        row = {"model": name, "contender": contender, "images": len(labels)}
        row["top1"] = 100 * float((logits.argmax(-1) == labels).double().mean())
        row["kl"] = float(task_of(subject.model).divergence(logits.double(), reference.double()).mean())
        write_result(ACCURACY_FILE, row | {"machine": machine(), "engines": versions()})
        print(row, flush=True)

    def run_all(contenders: dict[str, Contender]) -> None:
        for contender, found in contenders.items():
            parts = [found.run(part.numpy()) for part in pixels.split(50)]
            write(contender, torch.from_numpy(np.concatenate(parts)).float())

    write("float", reference)
    with tempfile.TemporaryDirectory() as folder:
        run_all(engine_contenders(subject.model, subject.calibration[:128].numpy(), Path(folder)))
        for bits in widths:
            packed = calibrated(subject, bits)
            write(f"mixq W{bits}A{bits} PyTorch", logits_of(packed, pixels))
            run_all(packed_contenders(packed, f"mixq W{bits}A{bits}", Path(folder)))


def measure_attention(
    name: str, bench: Path | None, images: int, widths: tuple[int, ...] = (8, 6, 5, 4, 3, 2)
) -> None:
    """Write the KL to the float model of both ways to run attention, computed in PyTorch."""
    subject = load_subject(name, bench)
    pixels = subject.evaluation[-images:]
    reference = logits_of(subject.model, pixels).double()
    for bits in widths:
        packed = calibrated(subject, bits)
        ways = {"PyTorch": packed} | {way: convert(packed, way) for way in ("logarithmic", "integer")}
        for way, model in ways.items():
            kl = float(task_of(packed).divergence(logits_of(model, pixels).double(), reference).mean())
            row = {"model": name, "bits": bits, "attention": way, "kl": kl, "images": len(pixels)}
            write_result(ATTENTION_FILE, row | {"machine": machine()})
            print(row, flush=True)


def calibrated(subject: Any, bits: int) -> PreTrainedModel:
    plan = BitPlan.uniform(subject.model, bits)
    config = MixQConfig(bits=bits, reconstruction=None)
    return quantize_model(subject.model, plan, subject.calibration[:128].split(32), config)


def megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6


def versions() -> str:
    from importlib.metadata import version

    names = [name for name in ("onnxruntime", "openvino", "nncf") if importlib.util.find_spec(name) is not None]
    return ", ".join(f"{name} {version(name)}" for name in names)


if __name__ == "__main__":
    main()
