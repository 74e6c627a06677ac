# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The images that training sees, in an order and moved in ways that seed, epoch and row alone decide."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from optimum_mixq.images.batches import Images
from optimum_mixq.images.moves import draw_move
from optimum_mixq.stages.training.config import MixQTrainingConfig
from optimum_mixq.tasks.base import Task


def build_loader(images: Images, config: MixQTrainingConfig, task: Task) -> DataLoader:
    """Return the loader of batches, or of the parts that gradients are accumulated over."""
    if len(images) < config.batch_size:
        raise ValueError(
            f"Expected at least batch_size={config.batch_size} training images, found {len(images)} in "
            f"{images.description}. Add images, or set a smaller batch_size."
        )
    part = config.batch_size // config.gradient_accumulation_steps
    # The loader's own generator: it draws nothing from torch's, which DropPath uses, so that a resumed epoch is equal.
    generator = torch.Generator().manual_seed(config.seed)
    rows, sampler = TrainingImages(images, config, task), _EpochSampler(len(images), config.seed)
    return DataLoader(rows, batch_size=part, sampler=sampler, drop_last=True, generator=generator)


class TrainingImages(Dataset):
    """Images moved at random, and their targets (...): NaN where an image has no label.

    Row epoch * count + index is the index-th image as that epoch sees it.
    """

    def __init__(self, images: Images, config: MixQTrainingConfig, task: Task) -> None:
        self.images, self.config, self.task = images, config, task

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        epoch, index = divmod(row, len(self.images))
        batch = next(self.images.batches([index], 1))
        generator = torch.Generator().manual_seed(mix_seeds(self.config.seed, epoch, index))
        move = draw_move(batch.pixel_values.shape[-2:], self.config.shift, self.config.flip, generator)
        pixels, outputs = move(batch.pixel_values[0]), self.images.num_labels
        if batch.labels is None:
            return pixels, self.task.unknown_target(pixels, outputs)
        return pixels, self.task.targets(self.task.move_labels(batch.labels, move), outputs)[0]


class _EpochSampler(Sampler):
    """Yields rows of `TrainingImages` in an order that seed and epoch alone decide, on every process the same."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(mix_seeds(self.seed, self.epoch))
        for index in torch.randperm(self.count, generator=generator).tolist():
            yield self.epoch * self.count + index


def mix_seeds(*numbers: int) -> int:
    """Return one seed of several numbers."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % (2**63 - 1)
    return seed
