# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Train a small SegFormer on scenes of Fashion-MNIST images, and write it with its image processor.

    python examples/train_scene_models.py --data FOLDER --output scene-models

`--data` is a folder with `train.npz` and `test.npz` (arrays `images` and `labels`). Every step sees new scenes. The
checkpoint is in float16.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from scenes import NAMES, SIDE, Scene, compose_scenes, load_split
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessorPil

from optimum_mixq.tasks import task_of


MEAN, STD = 0.2, 0.25  # of the pixels of scenes, as fractions of 255, roughly


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    model, started = build_model(), time.monotonic()
    train(model, arguments)
    minutes = (time.monotonic() - started) / 60
    folder = arguments.output / "segformer"
    model.half().save_pretrained(folder)
    build_processor().save_pretrained(folder)
    model = SegformerForSemanticSegmentation.from_pretrained(folder, dtype=torch.float32).eval()
    record = {
        "mean_iou": measure(model, arguments), "steps": arguments.steps, "seed": arguments.seed,
        "minutes": round(minutes, 1), "threads": arguments.threads,
    }  # fmt: skip
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"{model.num_parameters():,} parameters, mean IoU {100 * record['mean_iou']:.2f} %, {minutes:.1f} minutes")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds Fashion-MNIST")
    parser.add_argument("--output", type=Path, required=True, help="folder that receives segformer/")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--test-scenes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def build_model() -> PreTrainedModel:
    names = ("background", *NAMES)
    config = SegformerConfig(
        depths=[2, 2, 2, 2], sr_ratios=[4, 2, 1, 1], hidden_sizes=[24, 48, 96, 128], num_attention_heads=[1, 2, 4, 4],
        mlp_ratios=[2, 2, 2, 2], decoder_hidden_size=64, drop_path_rate=0.0, image_size=SIDE,
        id2label=dict(enumerate(names)), label2id={name: number for number, name in enumerate(names)},
    )  # fmt: skip
    return SegformerForSemanticSegmentation(config)


def build_processor() -> SegformerImageProcessorPil:
    return SegformerImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_mean=[MEAN] * 3, image_std=[STD] * 3, do_reduce_labels=False
    )


def train(model: PreTrainedModel, arguments: argparse.Namespace) -> None:
    images, labels = load_split(arguments.data, "train")
    matrices = [part for name, part in model.named_parameters() if part.ndim == 2 and not name.startswith("decode")]
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
        pixels, masks = to_batch(list(compose_scenes(images, labels, numbers, "train")))
        logits = model(pixel_values=pixels).logits
        resized = F.interpolate(logits, masks.shape[-2:], mode="bilinear", align_corners=False)
        loss = F.cross_entropy(resized, masks)
        loss.backward()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if step % 100 == 0:
            print(f"step {step}: loss {float(loss.detach()):.3f}", flush=True)


def to_batch(scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """Return pixels (B, 3, H, W), as the image processor makes them, and masks (B, H, W)."""
    images = torch.stack([scene.image for scene in scenes]).float() / 255
    pixels = ((images - MEAN) / STD)[:, None].expand(-1, 3, -1, -1)
    return pixels, torch.stack([scene.mask for scene in scenes]).long()


@torch.inference_mode()
def measure(model: PreTrainedModel, arguments: argparse.Namespace) -> float:
    """Return the mean IoU on scenes of test images."""
    images, labels = load_split(arguments.data, "test")
    meter = task_of(model).meter()
    for start in range(0, arguments.test_scenes, 50):
        numbers = range(start, min(start + 50, arguments.test_scenes))
        pixels, masks = to_batch(list(compose_scenes(images, labels, numbers, "test")))
        meter.add(model(pixel_values=pixels).logits, masks)
    return meter.value() or 0.0


if __name__ == "__main__":
    main()
