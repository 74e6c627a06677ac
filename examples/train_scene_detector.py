# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Train a small YOLOS on scenes of Fashion-MNIST images, and write it with its image processor.

    python examples/train_scene_detector.py --data FOLDER --output scene-models

`--data` is a folder with `train.npz` and `test.npz` (arrays `images` and `labels`). Every step sees new scenes, and
transformers' own loss matches what is found with what is there (it needs `scipy`). The checkpoint is in float16.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from scenes import NAMES, SIDE, Scene, compose_scenes, load_split
from torch import Tensor
from tqdm.auto import tqdm
from train_scene_models import MEAN, STD
from transformers import PreTrainedModel, YolosConfig, YolosForObjectDetection, YolosImageProcessorPil

from optimum_mixq.tasks import run_model, task_of


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    model, started = build_model(), time.monotonic()
    train(model, arguments)
    minutes = (time.monotonic() - started) / 60
    folder = arguments.output / "yolos"
    model.half().save_pretrained(folder)
    build_processor().save_pretrained(folder)
    model = YolosForObjectDetection.from_pretrained(folder, dtype=torch.float32).eval()
    record = {
        "mean_average_precision": measure(model, arguments), "steps": arguments.steps, "seed": arguments.seed,
        "minutes": round(minutes, 1), "threads": arguments.threads,
    }  # fmt: skip
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    precision = 100 * record["mean_average_precision"]
    print(f"{model.num_parameters():,} parameters, mAP {precision:.2f} %, {minutes:.1f} minutes")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds Fashion-MNIST")
    parser.add_argument("--output", type=Path, required=True, help="folder that receives yolos/")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--test-scenes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def build_model() -> PreTrainedModel:
    config = YolosConfig(
        image_size=(SIDE, SIDE), patch_size=12, hidden_size=96, num_hidden_layers=6, num_attention_heads=3,
        intermediate_size=192, num_detection_tokens=8, use_mid_position_embeddings=False,
        id2label=dict(enumerate(NAMES)), label2id={name: number for number, name in enumerate(NAMES)},
    )  # fmt: skip
    return YolosForObjectDetection(config)


def build_processor() -> YolosImageProcessorPil:
    return YolosImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_mean=[MEAN] * 3, image_std=[STD] * 3, do_pad=False
    )


def train(model: PreTrainedModel, arguments: argparse.Namespace) -> None:
    images, labels = load_split(arguments.data, "train")
    matrices = [part for name, part in model.named_parameters() if part.ndim == 2 and ".encoder." in name]
    others = [part for part in model.parameters() if not any(part is matrix for matrix in matrices)]
    optimizers = [
        torch.optim.Muon(matrices, lr=10 * arguments.learning_rate, weight_decay=0.01),
        torch.optim.AdamW(others, lr=arguments.learning_rate, weight_decay=0.01),
    ]
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer, [group["lr"] for group in optimizer.param_groups], arguments.steps, cycle_momentum=False
        )
        for optimizer in optimizers
    ]
    model.train()
    for step in tqdm(range(arguments.steps), desc="Training"):
        numbers = range(step * arguments.batch_size, (step + 1) * arguments.batch_size)
        pixels, objects = to_batch(list(compose_scenes(images, labels, numbers, "train")))
        found = model(pixel_values=pixels, labels=objects)
        found.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if step % 100 == 0:
            parts = {name: round(float(part), 3) for name, part in found.loss_dict.items()}
            print(f"step {step}: loss {float(found.loss.detach()):.3f} {parts}", flush=True)


def to_batch(scenes: list[Scene]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Return pixels (B, 3, H, W), as the image processor makes them, and objects as transformers' loss takes them."""
    images = torch.stack([scene.image for scene in scenes]).float() / 255
    pixels = ((images - MEAN) / STD)[:, None].expand(-1, 3, -1, -1)
    return pixels, [{"class_labels": scene.classes, "boxes": to_centers(scene)} for scene in scenes]


def to_centers(scene: Scene) -> Tensor:
    """Return boxes (objects, 4) as center, width and height in parts of the scene's side."""
    low, high = scene.boxes.split(2, -1)
    return torch.cat([(low + high) / 2, high - low], -1) / SIDE


@torch.inference_mode()
def measure(model: PreTrainedModel, arguments: argparse.Namespace) -> float:
    """Return COCO's mAP on scenes of test images."""
    images, labels = load_split(arguments.data, "test")
    meter = task_of(model).meter()
    for start in range(0, arguments.test_scenes, 50):
        scenes = list(compose_scenes(images, labels, range(start, min(start + 50, arguments.test_scenes)), "test"))
        pixels, _ = to_batch(scenes)
        rows = [
            torch.cat([scene.classes[:, None].float(), to_centers(scene), torch.zeros(len(scene.boxes), 1)], 1)
            for scene in scenes
        ]
        wanted = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=torch.nan)
        meter.add(run_model(model, pixels), wanted)
    return meter.value() or 0.0


if __name__ == "__main__":
    main()
