# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""How near the embeddings of a packed model without a classifier stay to the float model's, and what they still find.

    python benchmarks/features.py --bench PATH     # measure and print the table
    python benchmarks/features.py --table          # print what was measured before

The models are what stands under a classifier's head. Seed s calibrates on images 32 s to 32 s + 31; bits are chosen on
the last 64 calibration images. The distance is the mean over images of 1 - cosine. An image is found where its nearest
neighbour among the other evaluation images, by the same model's embeddings, has its class.
"""

import argparse
import time
from pathlib import Path

import torch
from common import load_subject, logits_of, machine, read_results, spread, write_result
from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq import DEMO_MODELS, demo_model_path
from optimum_mixq.artifacts import BitPlan, Known
from optimum_mixq.config import MixQConfig
from optimum_mixq.images.batches import Batch
from optimum_mixq.measurements import Measurements
from optimum_mixq.pipeline import choose, quantize_model
from optimum_mixq.stages.evaluation import score
from optimum_mixq.tasks import task_of
from optimum_mixq.tasks.loading import load_model


FILE = "features.jsonl"
CHOOSING_IMAGES = 64


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    if not arguments.table:
        for name in arguments.models:
            measure(name, arguments)
    print(table())


def measure(name: str, arguments: argparse.Namespace) -> None:
    subject = load_subject(name, arguments.bench)
    folder = demo_model_path(name) if name in DEMO_MODELS else arguments.bench / name
    model = load_model(folder, "image-feature-extraction", dtype=torch.float32).eval()
    images, labels = subject.evaluation[: arguments.images], subject.labels[: arguments.images]
    task, reference = task_of(model), logits_of(model, images)
    for seed in arguments.seeds:
        known = None
        for target in arguments.bits:
            for kind in ("uniform", "mixed") if target in arguments.mixed else ("uniform",):
                started = time.process_time()
                packed, known = make(model, subject.calibration, target, kind, seed, known)
                seconds = time.process_time() - started
                found = score(logits_of(packed, images), labels, reference, task)
                row = {
                    "model": name, "bits": target, "plan": kind, "seed": seed, "images": found.images,
                    "float_accuracy": 100 * (task.accuracy(reference, labels) or 0),
                    "accuracy": 100 * (found.accuracy or 0), "distance": found.kl, "seconds": seconds,
                    "machine": machine(),
                }  # fmt: skip
                write_result(FILE, row)
                print(f"{name}, {kind} {target} bits, seed {seed}: {found}", flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, help="folder with the models and images that are not shipped")
    parser.add_argument("--models", nargs="+", default=["vit", "swin", "vit-small-tin200"])
    parser.add_argument("--bits", nargs="+", type=int, default=[8, 6, 4, 3])
    parser.add_argument("--mixed", nargs="*", type=int, default=[4, 3], help="bits that mixed plans have on average")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=1000, help="evaluation images, at most")
    parser.add_argument("--table", action="store_true", help="only print what was measured before")
    return parser.parse_args()


def make(
    model: PreTrainedModel, images: Tensor, bits: int, kind: str, seed: int, known: Known | None
) -> tuple[PreTrainedModel, Known | None]:
    """Return a packed model, and the relevance that was measured on the way, which serves other bits too."""
    config, calibration = MixQConfig(bits=bits, seed=seed, reconstruction=None), [images[32 * seed : 32 * seed + 32]]
    if kind == "uniform":
        return quantize_model(model, BitPlan.uniform(model, bits), calibration, config), known
    batches = [Batch(part, None, ()) for part in images[-CHOOSING_IMAGES:].split(32)]
    measured = Measurements(model, calibration, batches, config, known=known)
    choice = choose(measured)
    packed = choice.packed or quantize_model(model, choice.plan, calibration, config)
    return packed, Known(measured.relevance)


def table() -> str:
    rows = read_results(FILE)
    lines = [
        "| model | plan | bits | seeds | cosine distance to float | nearest neighbour % | float % |",
        "|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((row["model"], row["bits"], row["plan"]) for row in rows):
        group = [row for row in rows if (row["model"], row["bits"], row["plan"]) == key]
        distances, accuracies = (
            spread([row["distance"] for row in group], 4),
            spread([row["accuracy"] for row in group], 1),
        )
        lines.append(
            f"| {key[0]} | {key[2]} | {key[1]} | {len(group)} | {distances} | {accuracies} "
            f"| {group[0]['float_accuracy']:.1f} |"
        )
    images, machines = sorted({row["images"] for row in rows}), "; ".join(sorted({row["machine"] for row in rows}))
    told = f"Mean (lowest-highest) over seeds. Evaluation images: {images}. Measured on {machines}."
    return "\n".join([*lines, "", told])


if __name__ == "__main__":
    main()
