# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Train the three small Fashion-MNIST classifiers that the package ships, and pack the images that go with them.

    python examples/train_demo_models.py --data /usr/share/datasets/fashion-mnist --output optimum_mixq/demo

`--data` is a folder that holds Fashion-MNIST either as `train.npz` and `test.npz` (arrays `images` and `labels`) or as
the four original `*-ubyte.gz` files (Debian: package `dataset-fashion-mnist`). Each model is written as a float16
Hugging Face checkpoint with its image processor; the DeiT is distilled from the ViT, so the ViT comes first.
"""

import argparse
import gzip
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    PreTrainedModel,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)


LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# Mean and standard deviation of the 60,000 training images, as fractions of 255.
PIXEL_MEAN, PIXEL_STD = 0.2860, 0.3530
CALIBRATION_IMAGES, EVALUATION_IMAGES = 256, 1000


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    train_images, train_labels = load_split(arguments.data, "train")
    test_images, test_labels = load_split(arguments.data, "test")
    write_images(arguments.output / "images", "train", train_images, train_labels, CALIBRATION_IMAGES)
    write_images(arguments.output / "images", "test", test_images, test_labels, EVALUATION_IMAGES)

    for name in arguments.models:
        folder = arguments.output / "models" / name
        torch.manual_seed(arguments.seed)
        model = build_model(name)
        teacher = load_teacher(arguments.output / "models" / "vit") if name == "deit" else None
        started = time.monotonic()
        train(model, teacher, train_images, train_labels, arguments)
        minutes = (time.monotonic() - started) / 60
        save(model, folder)
        accuracy = measure_accuracy(type(model).from_pretrained(folder, dtype=torch.float32), test_images, test_labels)
        record = {"top1": accuracy, "epochs": arguments.epochs, "seed": arguments.seed, "minutes": round(minutes, 1)}
        (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n")
        print(f"{name}: {model.num_parameters():,} parameters, top-1 {100 * accuracy:.2f} % on 10,000 test images")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds Fashion-MNIST")
    parser.add_argument("--output", type=Path, required=True, help="folder that receives models/ and images/")
    parser.add_argument("--models", nargs="+", default=["vit", "deit", "swin"], choices=["vit", "deit", "swin"])
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def load_split(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Return images (N, 28, 28) uint8 and labels (N,) int64 of "train" or "test"."""
    archive = folder / f"{split}.npz"
    if archive.exists():
        with np.load(archive) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    else:
        prefix = "train" if split == "train" else "t10k"
        images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", header=16).reshape(-1, 28, 28)
        labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", header=8)
    return torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64))


def read_idx(path: Path, header: int) -> np.ndarray:
    with gzip.open(path) as stream:
        return np.frombuffer(stream.read(), dtype=np.uint8, offset=header)


def write_images(folder: Path, split: str, images: Tensor, labels: Tensor, count: int) -> None:
    """Write the first `count` images as a Parquet file that `datasets.load_dataset(folder, split=split)` reads."""
    from datasets import ClassLabel, Dataset, Features, Image
    from PIL import Image as PILImage

    features = Features({"image": Image(), "label": ClassLabel(names=list(LABELS))})
    columns = {
        "image": [PILImage.fromarray(image.numpy()) for image in images[:count]],
        "label": labels[:count].tolist(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}.parquet")


def build_model(name: str) -> PreTrainedModel:
    """Return an untrained classifier of about 0.9 M parameters for 28 x 28 RGB images."""
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {label: index for index, label in enumerate(LABELS)}}
    plain = {
        "image_size": 28,
        "patch_size": 4,
        "hidden_size": 96,
        "num_hidden_layers": 8,
        "num_attention_heads": 3,
        "intermediate_size": 384,
    }
    if name == "vit":
        return ViTForImageClassification(ViTConfig(**plain, **labels))
    if name == "deit":
        return DeiTForImageClassificationWithTeacher(DeiTConfig(**plain, **labels))
    # Map of 14 x 14 in windows of 7, shifted in every second block; after merging one window of 7 x 7.
    config = SwinConfig(
        image_size=28,
        patch_size=2,
        embed_dim=64,
        depths=[2, 4],
        num_heads=[2, 4],
        window_size=7,
        drop_path_rate=0.0,
        **labels,
    )
    return SwinForImageClassification(config)


def load_teacher(folder: Path) -> PreTrainedModel:
    if not (folder / "config.json").exists():
        raise SystemExit(
            f"The DeiT is distilled from the ViT, and {folder} holds none: train it first (--models swin)."
        )
    return ViTForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()


def train(
    model: PreTrainedModel,
    teacher: PreTrainedModel | None,
    images: Tensor,
    labels: Tensor,
    arguments: argparse.Namespace,
) -> None:
    generator = torch.Generator().manual_seed(arguments.seed)
    steps = arguments.epochs * math.ceil(len(images) / arguments.batch_size)
    optimizers = build_optimizers(model, arguments.learning_rate)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=arguments.learning_rate, total_steps=steps, pct_start=0.15, cycle_momentum=False
        )
        for optimizer in optimizers
    ]
    # torch 2.13 on CPU: the backward of fused attention in bfloat16 is several times slower than the plain one.
    model.set_attn_implementation("eager")
    model.train()
    running_loss = 0.0
    progress = tqdm(total=steps, desc=model.config.model_type, mininterval=5)
    for _ in range(arguments.epochs):
        for batch, targets in shuffled_batches(images, labels, arguments.batch_size, generator):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = classification_loss(model, teacher, batch, targets)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            running_loss = loss.item() if progress.n == 0 else 0.99 * running_loss + 0.01 * loss.item()
            progress.update()
            progress.set_postfix(loss=f"{running_loss:.3f}", refresh=False)
    progress.close()


def build_optimizers(model: PreTrainedModel, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Return Muon (torch >= 2.9) for the blocks' matrices, which learns faster per epoch, and AdamW for the rest."""
    blocks = {id(p) for module in model.modules() if isinstance(module, nn.ModuleList) for p in module.parameters()}
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2 and id(parameter) in blocks]
    chosen = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    # This adjustment gives Muon's updates the size of AdamW's, so that one learning rate serves both.
    muon = torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, lr=learning_rate, weight_decay=0.0)]


def shuffled_batches(
    images: Tensor, labels: Tensor, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield augmented batches: each image shifted by up to one pixel and flipped with probability one half."""
    rows = torch.arange(28)
    for indices in torch.randperm(len(images), generator=generator).split(batch_size):
        padded = F.pad(images[indices], (1, 1, 1, 1))  # (B, 30, 30)
        offsets = torch.randint(0, 3, (2, len(indices), 1), generator=generator)
        top, left = offsets[0] + rows, offsets[1] + rows  # (B, 28) each
        flipped = torch.rand(len(indices), 1, generator=generator) < 0.5
        left = torch.where(flipped, left.flip(1), left)
        batch = padded[torch.arange(len(indices))[:, None, None], top[:, :, None], left[:, None, :]]  # (B, 28, 28)
        yield normalize(batch), labels[indices]


def normalize(images: Tensor) -> Tensor:
    """Return (B, 3, 28, 28) float32, as the saved image processor makes it."""
    return ((images.float() / 255 - PIXEL_MEAN) / PIXEL_STD)[:, None].expand(-1, 3, -1, -1)


def classification_loss(
    model: PreTrainedModel, teacher: PreTrainedModel | None, batch: Tensor, targets: Tensor
) -> Tensor:
    outputs = model(pixel_values=batch)
    if teacher is None:
        return F.cross_entropy(outputs.logits.float(), targets, label_smoothing=0.05)
    # Hard distillation (DeiT, arXiv 2012.12877, eq. 3): one head learns the labels, the other the teacher's decisions.
    with torch.no_grad():
        decisions = teacher(pixel_values=batch).logits.argmax(-1)
    from_labels = F.cross_entropy(outputs.cls_logits.float(), targets, label_smoothing=0.05)
    return (from_labels + F.cross_entropy(outputs.distillation_logits.float(), decisions)) / 2


def save(model: PreTrainedModel, folder: Path) -> None:
    model.eval()
    model.to(torch.float16).save_pretrained(folder)
    processor = ViTImageProcessorPil(
        size={"height": 28, "width": 28}, image_mean=[PIXEL_MEAN] * 3, image_std=[PIXEL_STD] * 3, do_convert_rgb=True
    )
    processor.save_pretrained(folder)


@torch.no_grad()
def measure_accuracy(model: PreTrainedModel, images: Tensor, labels: Tensor) -> float:
    model.eval()
    hits = 0
    for batch, targets in zip(images.split(250), labels.split(250), strict=True):
        hits += int((model(pixel_values=normalize(batch)).logits.argmax(-1) == targets).sum())
    return hits / len(images)


if __name__ == "__main__":
    main()
