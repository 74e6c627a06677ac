# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""How near the maps of a packed SegFormer stay to the float model's, and what is left of its mean IoU.

    python benchmarks/segmentation.py --model FOLDER --data FASHION_MNIST     # measure and print the table
    python benchmarks/segmentation.py --table                                 # print what was measured before

The model is that of examples/train_scene_models.py, and images are its scenes: those of training images 0 to 31 (seed
1: 32 to 63, ...) set the ranges, 64 others choose the bits, and scenes of test images are what is reported.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from common import machine, read_results, write_result
from transformers import AutoImageProcessor, PreTrainedModel

from optimum_mixq.artifacts import BitPlan, Known
from optimum_mixq.config import MixQConfig
from optimum_mixq.images.batches import Batch
from optimum_mixq.images.sources import open_images
from optimum_mixq.pipeline import Measurements, choose, quantize_model
from optimum_mixq.reporting.compare import Tally
from optimum_mixq.stages.evaluation import run_together
from optimum_mixq.tasks import task_of
from optimum_mixq.tasks.loading import load_model
from optimum_mixq.utils.file_size import saved_bytes


sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from scenes import compose_scenes, load_split


FILE = "segmentation.jsonl"
CHOOSING_SCENES = range(10_000_000, 10_000_064)  # none that the model was trained on
CALIBRATION_START, PER_SEED = 20_000_000, 32


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    if not arguments.table:
        measure(arguments)
    print(table())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="folder of a model of examples/train_scene_models.py")
    parser.add_argument("--data", type=Path, help="folder that holds Fashion-MNIST")
    parser.add_argument("--bits", nargs="+", type=int, default=[8, 6, 4, 3])
    parser.add_argument("--mixed", nargs="*", type=int, default=[4, 3], help="bits that mixed plans have on average")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--scenes", type=int, default=500, help="evaluation images")
    parser.add_argument("--table", action="store_true", help="only print what was measured before")
    return parser.parse_args()


def measure(arguments: argparse.Namespace) -> None:
    model = load_model(arguments.model, dtype=torch.float32).eval()
    processor = AutoImageProcessor.from_pretrained(arguments.model)

    def scenes(split: str, numbers: range) -> list[Batch]:
        images, labels = load_split(arguments.data, split)
        composed = compose_scenes(images, labels, numbers, split)
        pairs = [(scene.picture(), scene.mask_picture()) for scene in composed]
        return list(open_images(pairs, model, processor, "evaluation").batches(range(len(pairs)), 32))

    evaluation, choosing = scenes("test", range(arguments.scenes)), scenes("train", CHOOSING_SCENES)
    for seed in arguments.seeds:
        start = CALIBRATION_START + PER_SEED * seed
        calibration = [batch.pixel_values for batch in scenes("train", range(start, start + PER_SEED))]
        known = None
        for target in arguments.bits:
            for kind in ("uniform", "mixed") if target in arguments.mixed else ("uniform",):
                started, config = time.process_time(), MixQConfig(bits=target, seed=seed)
                if kind == "uniform":
                    packed = quantize_model(model, BitPlan.uniform(model, target), calibration, config)
                else:
                    measured = Measurements(model, calibration, choosing, config, known=known)
                    choice = choose(measured)
                    packed = choice.packed or quantize_model(model, choice.plan, calibration, config)
                    known = Known(measured.relevance)
                row = {"bits": target, "plan": kind, "seed": seed, "seconds": time.process_time() - started}
                row |= judge(model, packed, evaluation) | {"machine": machine()}
                write_result(FILE, row)
                print(row, flush=True)


def judge(model: PreTrainedModel, packed: PreTrainedModel, evaluation: list[Batch]) -> dict[str, Any]:
    tallies = {name: Tally(task_of(model)) for name in ("float", "packed")}
    for batch, logits in run_together({"float": model, "packed": packed}, evaluation):
        for name, tally in tallies.items():
            tally.add(logits[name], batch.labels, logits["float"])
    found, reference = (tallies[name].evaluation() for name in ("packed", "float"))
    return {
        "images": found.images, "iou": 100 * (found.accuracy or 0), "float_iou": 100 * (reference.accuracy or 0),
        "agreement": 100 * (found.agreement or 0), "kl": found.kl,
        "megabytes": saved_bytes(packed) / 1e6, "float_megabytes": saved_bytes(model) / 1e6,
    }  # fmt: skip


def table() -> str:
    rows = read_results(FILE)
    lines = [
        "| plan | bits | seeds | mean IoU % | float % | same class % | KL per pixel | MB (float) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for bits, plan in dict.fromkeys((row["bits"], row["plan"]) for row in rows):
        group = [row for row in rows if (row["bits"], row["plan"]) == (bits, plan)]
        cells = [spread(group, "iou", 1), f"{group[0]['float_iou']:.1f}", spread(group, "agreement", 1)]
        cells += [spread(group, "kl", 4), f"{group[0]['megabytes']:.2f} ({group[0]['float_megabytes']:.2f})"]
        lines.append(f"| {plan} | {bits} | {len(group)} | {' | '.join(cells)} |")
    images, machines = sorted({row["images"] for row in rows}), "; ".join(sorted({row["machine"] for row in rows}))
    told = f"Mean (lowest-highest) over seeds. Evaluation images: {images}. Measured on {machines}."
    return "\n".join([*lines, "", told])


def spread(rows: list[dict[str, Any]], name: str, digits: int) -> str:
    values = [row[name] for row in rows]
    return f"{statistics.mean(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


if __name__ == "__main__":
    main()
