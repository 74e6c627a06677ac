# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Scenes of Fashion-MNIST images on a canvas, with masks and boxes: data for models that say where things are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from datasets import load_dataset
from PIL import Image
from torch import Tensor

from optimum_mixq import demo_images_path


NAMES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot")
SIDE = 96  # pixels of a scene
OBJECTS = (2, 5)  # in a scene, at least and at most
SIZES = (26, 44)  # sides of an object's square
SEEN = 24  # grey value from which a pixel belongs to its object
NOISE = 12.0  # standard deviation of the grey values behind the objects
SEED = {"train": 1, "test": 2}


@dataclass(frozen=True)
class Scene:
    """An image (H, W) uint8; its mask (H, W) uint8, 0 for the background and 1 + class elsewhere; and its objects.

    Boxes (objects, 4) are left, top, right, bottom in pixels, around what an object shows; classes (objects,) count
    from 0.
    """

    image: Tensor
    mask: Tensor
    boxes: Tensor
    classes: Tensor

    def picture(self) -> Image.Image:
        return Image.fromarray(self.image.numpy()).convert("RGB")

    def mask_picture(self) -> Image.Image:
        return Image.fromarray(self.mask.numpy())


def load_split(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Return images (N, 28, 28) uint8 and labels (N,) int64 of "train" or "test"."""
    with np.load(folder / f"{split}.npz") as arrays:
        return torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"].astype(np.int64))


def load_shipped_split(split: str) -> tuple[Tensor, Tensor]:
    """Return what `load_split` does, of the 256 ("train") and 1,000 ("test") images that optimum-mixq ships."""
    rows = load_dataset(str(demo_images_path()), split=split)
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in rows["image"]])), torch.tensor(rows["label"])


def compose_scenes(images: Tensor, labels: Tensor, numbers: Sequence[int], split: str) -> Iterator[Scene]:
    """Yield the scenes of these numbers; number and split alone decide what a scene is."""
    for number in numbers:
        generator = torch.Generator().manual_seed(1_000_003 * SEED[split] + number)
        yield compose_scene(images, labels, generator)


def compose_scene(images: Tensor, labels: Tensor, generator: torch.Generator) -> Scene:
    """Return a scene of images (N, 28, 28), drawn by the generator. Later objects lie over earlier ones.

    An object of which others leave less than a quarter in sight is taken out of the list, and not out of the image.
    """

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    canvas = (NOISE * torch.randn(SIDE, SIDE, generator=generator)).abs()
    owner = torch.full((SIDE, SIDE), -1)
    areas, classes = [], []
    for number in range(draw(*OBJECTS)):
        row, side = draw(0, len(images) - 1), draw(*SIZES)
        resized = F.interpolate(images[row][None, None].float(), (side, side), mode="bilinear", antialias=True)[0, 0]
        top, left = draw(0, SIDE - side), draw(0, SIDE - side)
        place, seen = (slice(top, top + side), slice(left, left + side)), resized >= SEEN
        canvas[place] = torch.where(seen, resized, canvas[place])
        owner[place] = torch.where(seen, number, owner[place])
        areas.append(int(seen.sum()))
        classes.append(int(labels[row]))
    kept = [number for number, area in enumerate(areas) if int((owner == number).sum()) >= max(1, area // 4)]
    table = torch.tensor([0, *(1 + each for each in classes)], dtype=torch.uint8)
    boxes = [_box(owner == number) for number in kept]
    return Scene(
        canvas.clamp(0, 255).to(torch.uint8),
        table[owner + 1],
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.tensor([classes[number] for number in kept], dtype=torch.int64),
    )


def _box(shown: Tensor) -> tuple[int, int, int, int]:
    rows, columns = shown.any(1).nonzero()[:, 0], shown.any(0).nonzero()[:, 0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
