# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Accuracy of 2 and 3 bits before and after training, on the shipped models, and the cost of a training step.

    python benchmarks/qat.py --data FASHION_MNIST        # measure and print the tables
    python benchmarks/qat.py --table                     # print what was measured before

Calibrates on 128 of the images that are shipped, all of which choose mixed bits; with --reconstruction, blocks learn
from them before all of the model does. Trains on the first training images, keeps the epoch that is best on the last
1,000 of them, and reports on the test images without the 1,000 that the learning rate at 2 bits was chosen on; at 3
bits it was chosen on training images.
"""

import argparse
import copy
import statistics
import sys
import time
from pathlib import Path

import torch
from common import machine, read_results, write_result
from torch import Tensor

from optimum_mixq import (
    DEMO_MODELS,
    BitPlan,
    MixQConfig,
    MixQQuantizer,
    MixQTrainingConfig,
    demo_images_path,
    demo_model_path,
    open_images,
)
from optimum_mixq.artifacts import Known
from optimum_mixq.images.batches import Batch, Images, draw_rows
from optimum_mixq.pipeline import choose_plan, prepare
from optimum_mixq.stages.calibration.blocks import calibrate
from optimum_mixq.stages.evaluation import measure_logits, score
from optimum_mixq.stages.packing import make_trainable, pack
from optimum_mixq.stages.training.loop import train


sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from train_demo_models import PIXEL_MEAN, PIXEL_STD, load_split


FILE = "qat.jsonl"
# With candidates of 2 to 4 bits an average of exactly 2 leaves nothing to choose.
SETTINGS = {"uniform 2": 2, "mixed 2.3": 2.3, "uniform 3": 3, "mixed 3": 3}
# Of weights and of grids, unless others are given.
LEARNING_RATES = {2: (1e-3, 3e-5), 2.3: (1e-3, 3e-5), 3: (3e-4, 2e-4)}
CHOSEN_ON = slice(8000, 9000)
CALIBRATION_BATCHES = 4  # of 32 images


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    if not arguments.table:
        for name in arguments.models:
            if arguments.reconstruction is None:
                measure_step(name)
            measured = measure_units(name)
            for setting in arguments.settings:
                measure(name, setting, measured, arguments)
    print(table())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder that holds Fashion-MNIST")
    parser.add_argument("--models", nargs="+", default=list(DEMO_MODELS))
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--images", type=int, default=6_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--reconstruction", choices=["light", "full"], help="before training; none by default")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--step-learning-rate", type=float)
    parser.add_argument("--table", action="store_true", help="only print what was measured before")
    return parser.parse_args()


def measure_units(name: str) -> Known:
    """Measure once what both mixed plans are chosen from."""
    quantizer = MixQQuantizer.from_pretrained(demo_model_path(name))
    widths = MixQConfig(candidate_bits=(2, 3, 4, 5))
    return Known(
        quantizer.measure_relevance(demo_images_path(), widths),
        quantizer.measure_sensitivity(demo_images_path(), widths),
    )


def measure(
    name: str,
    setting: str,
    measured: Known,
    arguments: argparse.Namespace,
) -> None:
    quantizer = MixQQuantizer.from_pretrained(demo_model_path(name))
    model = quantizer.model
    shipped = open_images(demo_images_path(), model, quantizer.processor)
    config = MixQConfig(bits=SETTINGS[setting], reconstruction=arguments.reconstruction)
    batches = list(shipped.batches(draw_rows(shipped, 256, config.seed), 32))
    calibration = [batch.pixel_values for batch in batches[:CALIBRATION_BATCHES]]
    if setting.startswith("uniform"):
        plan = BitPlan.uniform(model, int(SETTINGS[setting]))
    else:
        plan = choose_plan(model, calibration, batches, config, known=measured)[0]
    pixels, labels = read(arguments.data, "train", model.config.num_channels)
    test_pixels, test_labels = read(arguments.data, "test", model.config.num_channels)
    kept = torch.ones(len(test_labels), dtype=torch.bool)
    kept[CHOSEN_ON] = False
    test_pixels, test_labels = test_pixels[kept], test_labels[kept]
    images = Images(
        arguments.images,
        lambda i: (pixels[i], int(labels[i])),
        lambda rows, labels, _: (torch.stack(rows), labels),
        10,
        "images",
    )
    held = cut(pixels[-1000:], labels[-1000:])
    test = cut(test_pixels, test_labels)
    prepared = prepare(model, plan, calibration, config)
    reference, _ = measure_logits(model, test)
    trainable = make_trainable(prepared)
    rate, step_rate = LEARNING_RATES[SETTINGS[setting]]
    rate, step_rate = arguments.learning_rate or rate, arguments.step_learning_rate or step_rate
    recipe = MixQTrainingConfig(
        epochs=arguments.epochs, learning_rate=rate, step_learning_rate=step_rate, batch_size=32, flip=False, shift=0.0
    )
    started = time.perf_counter()
    train(trainable, model, images, recipe, held)
    minutes = (time.perf_counter() - started) / 60
    before = score(measure_logits(pack(prepared), test)[0], test_labels, reference)
    after = score(measure_logits(pack(trainable), test)[0], test_labels, reference)
    row = {
        "kind": "accuracy", "model": name, "setting": setting, "reconstruction": config.reconstruction,
        "images": arguments.images, "epochs": arguments.epochs,
        "learning_rate": rate, "step_learning_rate": step_rate,
        "float": 100 * score(reference, test_labels).accuracy, "ptq": 100 * before.accuracy, "ptq_kl": before.kl,
        "qat": 100 * after.accuracy, "qat_kl": after.kl, "minutes": minutes, "tested": len(test_labels),
        "bits": {unit: list(bits) for unit, bits in plan.bits.items()}, "machine": machine(),
    }  # fmt: skip
    write_result(FILE, row)
    print({key: value for key, value in row.items() if key != "bits"}, flush=True)


def measure_step(name: str, images: int = 64, repeats: int = 5) -> None:
    """Time a training step with its teacher beside a float step with the same optimizer, in turn."""
    quantizer = MixQQuantizer.from_pretrained(demo_model_path(name))
    model = quantizer.model
    pixels = next(open_images(demo_images_path(), model, quantizer.processor).batches(range(images), images))
    plan = BitPlan.uniform(model, 2)
    config = MixQConfig(bits=2, reconstruction=None)
    learner = make_trainable(calibrate(model, plan, [pixels.pixel_values[:32]], config)).train()
    plain = copy.deepcopy(model).train()
    ratios = []
    for _ in range(repeats + 1):
        float_seconds = step(plain, pixels.pixel_values, None)
        ratios.append(step(learner, pixels.pixel_values, model) / float_seconds)
    row = {"kind": "step", "model": name, "ratio": statistics.median(ratios[1:]), "machine": machine()}
    write_result(FILE, row)
    print(row, flush=True)


def step(model: torch.nn.Module, pixels: Tensor, teacher: torch.nn.Module | None) -> float:
    from optimum_mixq.tasks import task_of

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    started = time.perf_counter()
    target = torch.zeros(len(pixels), 10)
    if teacher is not None:
        with torch.no_grad():
            target = teacher(pixel_values=pixels).logits
    task_of(model).divergence(model(pixel_values=pixels).logits, target).mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - started


def read(folder: Path, split: str, channels: int) -> tuple[Tensor, Tensor]:
    images, labels = load_split(folder, split)
    pixels = (images.float()[:, None] / 255 - PIXEL_MEAN) / PIXEL_STD
    return pixels.expand(-1, channels, -1, -1), labels


def cut(pixels: Tensor, labels: Tensor) -> list[Batch]:
    return [Batch(part, own, ()) for part, own in zip(pixels.split(100), labels.split(100), strict=True)]


def table() -> str:
    """Return a row for each model, bits and start: top-1 and KL before and after training."""
    rows = read_results(FILE)
    lines = [
        "| model | bits | reconstruction | images x epochs | learning rate (grids) | float top-1 % | calibrated "
        "| trained | minutes |",
        "|---" * 9 + "|",
    ]
    found = [row for name in DEMO_MODELS for row in rows if row["kind"] == "accuracy" and row["model"] == name]
    for row in found:
        lines.append(
            f"| {row['model']} | {row['setting']} | {row['reconstruction'] or 'none'} "
            f"| {row['images']} x {row['epochs']} | {row['learning_rate']:g} ({row['step_learning_rate']:g}) "
            f"| {row['float']:.2f} | {row['ptq']:.2f} / {row['ptq_kl']:.3f} "
            f"| {row['qat']:.2f} / {row['qat_kl']:.3f} | {row['minutes']:.1f} |"
        )
    steps = ", ".join(f"{row['ratio']:.2f} ({row['model']})" for row in rows if row["kind"] == "step")
    told = f"Top-1 in percent / KL to float. Test images: {sorted({row['tested'] for row in found})}"
    return "\n".join([*lines, "", f"{told}. A training step costs {steps} times a float step."])


if __name__ == "__main__":
    main()
