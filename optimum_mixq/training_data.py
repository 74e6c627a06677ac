# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The images that training sees, in an order and moved in ways that seed, epoch and row alone decide."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from optimum_mixq.data import Images
from optimum_mixq.losses import move_image
from optimum_mixq.training_config import MixQTrainingConfig


def build_loader(images: Images, config: MixQTrainingConfig) -> DataLoader:
    """Return the loader of batches, or of the parts that gradients are accumulated over."""
    if len(images) < config.batch_size:
        raise ValueError(
            f"Expected at least batch_size={config.batch_size} training images, found {len(images)} in "
            f"{images.description}. Add images, or set a smaller batch_size."
        )
    part = config.batch_size // config.gradient_accumulation_steps
    # The loader's own generator: it draws nothing from torch's, which DropPath uses, so that a resumed epoch is equal.
    generator = torch.Generator().manual_seed(config.seed)
    rows, sampler = TrainingImages(images, config), _EpochSampler(len(images), config.seed)
    return DataLoader(rows, batch_size=part, sampler=sampler, drop_last=True, generator=generator)


class TrainingImages(Dataset):
    """Images moved at random: row epoch * count + index is the index-th image as that epoch sees it."""

    def __init__(self, images: Images, config: MixQTrainingConfig) -> None:
        self.images, self.config = images, config

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        epoch, index = divmod(row, len(self.images))
        batch = next(self.images.batches([index], 1))
        generator = torch.Generator().manual_seed(mix_seeds(self.config.seed, epoch, index))
        pixels = move_image(batch.pixel_values[0], self.config.shift, self.config.flip, generator)
        return pixels, self._read_class(batch.labels)

    def _read_class(self, labels: Tensor | None) -> int:
        """Return the class number of one image, or -1 for none."""
        if labels is None:
            return -1
        if not labels.is_floating_point():
            return int(labels[0])
        if self.config.distillation < 1:
            raise ValueError(
                f"Expected one class per image to train on with distillation={self.config.distillation}, found "
                f"{'a vector' if labels.ndim > 1 else 'a number'}. Set distillation=1, which needs no labels."
            )
        return -1


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
