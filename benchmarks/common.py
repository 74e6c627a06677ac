# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What the benchmarks share: models, images, and results that are written as they come."""

import json
import math
import platform
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel

from optimum_mixq import DEMO_MODELS, demo_images_path, demo_model_path, open_images
from optimum_mixq.stages.evaluation import measure_logits


RESULTS = Path(__file__).parent / "results"
# Folder of a model under --bench, and the folder of its images.
BENCH_MODELS = {"vit-small-cifar10": "cifar10", "vit-small-tin200": "tiny-imagenet"}


@dataclass(frozen=True)
class Subject:
    """A float model with its calibration and evaluation images, preprocessed."""

    name: str
    model: PreTrainedModel
    calibration: Tensor  # (N, C, H, W)
    calibration_labels: Tensor  # (N,)
    evaluation: Tensor  # (M, C, H, W)
    labels: Tensor  # (M,)


def load_subject(name: str, bench: Path | None) -> Subject:
    """Return a shipped model ("vit", "deit", "swin"), or one of the models in the folder `bench`."""
    if name in DEMO_MODELS:
        folder, splits = demo_model_path(name), None
    elif bench is not None:
        folder, splits = bench / name, bench / BENCH_MODELS[name]
    else:
        raise SystemExit(f"'{name}' is not shipped: say with --bench where it lies.")
    model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    if splits is None:
        calibration, known = _read(open_images(demo_images_path(), model, processor, "calibration"))
        evaluation, labels = _read(open_images(demo_images_path(), model, processor, "evaluation"))
    else:
        # Class folders, read in the order of file names, which is a random order of classes.
        calibration, known = _read_files(splits / "calibration", model, processor)
        evaluation, labels = _read_files(splits / "evaluation", model, processor)
    return Subject(name, model, calibration, known, evaluation, labels)


def logits_of(model: PreTrainedModel, pixels: Tensor, batch_size: int = 50) -> Tensor:
    from optimum_mixq.images.batches import Batch

    batches = (Batch(part, None, ()) for part in pixels.split(batch_size))
    return measure_logits(model, batches)[0]


def write_result(file: str, row: dict[str, Any]) -> None:
    """Append one row to a file of JSON lines in benchmarks/results."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / file).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def read_results(file: str) -> list[dict[str, Any]]:
    path = RESULTS / file
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def geometric_mean(ratios: Iterable[float]) -> float:
    return math.exp(statistics.mean(map(math.log, ratios)))


def spread(values: list[float], digits: int = 2) -> str:
    """Return the mean, and the lowest and highest."""
    mean, low, high = (f"{value:.{digits}f}" for value in (statistics.mean(values), min(values), max(values)))
    return f"{mean} ({low}-{high})"


def top1_and_divergence(rows: list[dict[str, Any]]) -> str:
    """Return the means over rows of one cell, and nothing where there are none."""
    if not rows:
        return ""
    top1, divergence = (statistics.mean(row[name] for row in rows) for name in ("top1", "kl"))
    return f"{top1:.1f} / {divergence:.4f}"


def machine() -> str:
    processor = next(
        (line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return f"{processor}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"


def _read(images: Any) -> tuple[Tensor, Tensor]:
    batches = list(images.batches(range(len(images)), 100))
    labels = [batch.labels for batch in batches]
    return torch.cat([batch.pixel_values for batch in batches]), torch.cat(labels)


def _read_files(folder: Path, model: PreTrainedModel, processor: Any) -> tuple[Tensor, Tensor]:
    files = sorted(folder.glob("*/*.png"), key=lambda path: path.name)
    images = open_images(files, model, processor)
    pixels = torch.cat([batch.pixel_values for batch in images.batches(range(len(images)), 100)])
    return pixels, torch.tensor([model.config.label2id[path.parent.name] for path in files])
