# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""How near packed models of segmentation and detection stay to the float ones, and what is left of their scores.

    python benchmarks/scene_models.py --models FOLDER FOLDER --data FASHION_MNIST     # measure and print the table
    python benchmarks/scene_models.py --models FOLDER --data FASHION_MNIST --reconstruction light --bits 4 3
    python benchmarks/scene_models.py --table                                 # print what was measured before

The models are those of examples/train_scene_models.py and examples/train_scene_detector.py, and images are their
scenes: those of training images set the ranges (32 of them, others for each seed), 64 others choose the bits, and
scenes of test images are what is reported. No model was trained on any of these scenes.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import machine, read_results, spread, write_result
from transformers import AutoImageProcessor, PreTrainedModel

from optimum_mixq.artifacts import BitPlan, Known
from optimum_mixq.config import MixQConfig
from optimum_mixq.images.batches import Batch
from optimum_mixq.images.sources import open_images
from optimum_mixq.measurements import Measurements
from optimum_mixq.pipeline import choose, finish_choice, quantize_model
from optimum_mixq.reporting.compare import Tally
from optimum_mixq.stages.evaluation import run_together
from optimum_mixq.tasks import task_of
from optimum_mixq.tasks.loading import load_model
from optimum_mixq.utils.file_size import saved_bytes


sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from scenes import Scene, compose_scenes, load_split


FILE = "scene_models.jsonl"
# By what the Hub calls the task: the label of a scene.
LABELS: dict[str, Callable[[Scene], Any]] = {
    "image-segmentation": Scene.mask_picture,
    "object-detection": lambda scene: {"bbox": pixel_boxes(scene), "category": scene.classes.tolist()},
}
CHOOSING_SCENES = range(10_000_000, 10_000_064)  # none that the model was trained on
CALIBRATION_START, PER_SEED = 20_000_000, 32


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    for folder in [] if arguments.table else arguments.models:
        measure(folder, arguments)
    print(table())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", type=Path, default=[], help="folders of models trained on scenes")
    parser.add_argument("--data", type=Path, help="folder that holds Fashion-MNIST")
    parser.add_argument("--bits", nargs="+", type=int, default=[8, 6, 4, 3])
    parser.add_argument("--mixed", nargs="*", type=int, default=[4, 3], help="bits that mixed plans have on average")
    parser.add_argument("--reconstruction", choices=["light", "full"], help="what calibration mends; none by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--scenes", type=int, default=500, help="evaluation images")
    parser.add_argument("--table", action="store_true", help="only print what was measured before")
    return parser.parse_args()


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    model = load_model(folder, dtype=torch.float32).eval()
    processor, task = AutoImageProcessor.from_pretrained(folder), task_of(model)
    own = {"model": model.config.model_type, "score": task.accuracy_name}

    def scenes(split: str, numbers: range) -> list[Batch]:
        images, labels = load_split(arguments.data, split)
        composed = compose_scenes(images, labels, numbers, split)
        pairs = [(scene.picture(), LABELS[task.hub_task](scene)) for scene in composed]
        return list(open_images(pairs, model, processor, "evaluation").batches(range(len(pairs)), 32))

    evaluation, choosing = scenes("test", range(arguments.scenes)), scenes("train", CHOOSING_SCENES)
    for seed in arguments.seeds:
        start = CALIBRATION_START + PER_SEED * seed
        calibration = [batch.pixel_values for batch in scenes("train", range(start, start + PER_SEED))]
        known = None
        for target in arguments.bits:
            for kind in ("uniform", "mixed") if target in arguments.mixed else ("uniform",):
                config = MixQConfig(bits=target, seed=seed, reconstruction=arguments.reconstruction)
                started = time.process_time()
                if kind == "uniform":
                    packed = quantize_model(model, BitPlan.uniform(model, target), calibration, config)
                else:
                    measured = Measurements(model, calibration, choosing, config, known=known)
                    choice = choose(measured)
                    packed = finish_choice(choice, model, calibration, config)
                    known = Known(measured.relevance)
                row = own | {"bits": target, "plan": kind, "seed": seed, "seconds": time.process_time() - started}
                row |= {"reconstruction": config.reconstruction}
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
        "images": found.images, "found": 100 * (found.accuracy or 0), "float": 100 * (reference.accuracy or 0),
        "agreement": 100 * (found.agreement or 0), "kl": found.kl,
        "megabytes": saved_bytes(packed) / 1e6, "float_megabytes": saved_bytes(model) / 1e6,
    }  # fmt: skip


def pixel_boxes(scene: Scene) -> list[list[float]]:
    """Return the boxes of a scene as COCO has them: left, top, width, height."""
    low, high = scene.boxes.split(2, -1)
    return torch.cat([low, high - low], -1).tolist()


def table() -> str:
    """Return a row for each model, bits, plan and reconstruction, models in the order that they were measured in."""
    rows = read_results(FILE)
    models = list(dict.fromkeys(row["model"] for row in rows))
    lines = [
        "| model | plan | bits | seeds | score % | float % | same answer % | distance to float | MB (float) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key in sorted(set(map(_case, rows)), key=lambda case: (models.index(case[0]), -case[1], *case[2:])):
        group = [row for row in rows if _case(row) == key]
        model, bits, mixed, reconstruction = key
        plan = ("mixed" if mixed else "uniform") + (f", {reconstruction}" if reconstruction else "")
        cells = [
            spread([row["found"] for row in group], 1),
            f"{group[0]['float']:.1f}",
            spread([row["agreement"] for row in group], 1),
        ]
        cells += [
            spread([row["kl"] for row in group], 4),
            f"{group[0]['megabytes']:.2f} ({group[0]['float_megabytes']:.2f})",
        ]
        lines.append(f"| {model} | {plan} | {bits} | {len(group)} | {' | '.join(cells)} |")
    images, machines = sorted({row["images"] for row in rows}), "; ".join(sorted({row["machine"] for row in rows}))
    scores = ", ".join(f"{model}: {score}" for model, score in dict.fromkeys((r["model"], r["score"]) for r in rows))
    told = f"Mean (lowest-highest) over seeds. Scores: {scores}. Evaluation images: {images}. Measured on {machines}."
    return "\n".join([*lines, "", told])


def _case(row: dict[str, Any]) -> tuple[str, int, bool, str]:
    """Return what the rows of several seeds have in common; the first rows were written without reconstruction."""
    return row["model"], row["bits"], row["plan"] == "mixed", row.get("reconstruction") or ""


if __name__ == "__main__":
    main()
