# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Reads a DataLoader row by row: the rows that its sampler draws, through its own collate function."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset


# Times a data set's length that a sampler may draw before it counts as endless.
MOST_PASSES = 10


def drawn_rows(loader: DataLoader) -> list[int]:
    """Return the rows that the loader's sampler draws, in ascending order.

    A random sampler is asked once, with a fixed seed. Sorting changes nothing but which images a seed picks of them:
    these are then the same for a shuffled loader and its data set.
    """
    if isinstance(loader.dataset, IterableDataset) or not hasattr(loader.dataset, "__len__"):
        raise ValueError("Expected a DataLoader over a data set with a length, found an iterable one.")
    count = len(loader.dataset)
    with _fixed_seed(loader):
        batches = loader.batch_sampler
        drawn = iter(loader.sampler) if batches is None else itertools.chain.from_iterable(batches)
        rows = list(itertools.islice(drawn, MOST_PASSES * count + 1))
    for row in rows:
        if not hasattr(row, "__index__") or not 0 <= row < count:
            raise ValueError(f"Expected the DataLoader's sampler to draw rows 0..{count - 1}, found {row!r}.")
    if len(rows) > MOST_PASSES * count:
        raise ValueError(
            f"The DataLoader's sampler draws more than {MOST_PASSES} times as many rows as its data set has. "
            "Pass a sampler that ends."
        )
    return sorted(map(int, rows))


def row_collator(loader: DataLoader) -> Callable[[int], Any]:
    """Return the function from a row's number to what the loader yields for it, as a batch of one."""

    def collate(row: int) -> Any:
        sample = loader.dataset[row]
        return loader.collate_fn(sample if loader.batch_sampler is None else [sample])

    return collate


def batch_splitter(loader: DataLoader) -> Callable[[Any, str], tuple[Tensor, Any]]:
    """Return the function from a batch of one, and its name for errors, to pixel values (C, H, W) and a label."""
    batched = loader.batch_sampler is not None

    def split(batch: Any, name: str) -> tuple[Tensor, Any]:
        if isinstance(batch, Mapping):
            pixels, labels = batch.get("pixel_values"), batch.get("labels", batch.get("label"))
        elif isinstance(batch, (tuple, list)) and batch:
            pixels, labels = batch[0], batch[1] if len(batch) > 1 else None
        else:
            pixels, labels = batch, None
        if not isinstance(pixels, Tensor) or pixels.ndim != 3 + batched or (batched and len(pixels) != 1):
            found = f"a tensor {tuple(pixels.shape)}" if isinstance(pixels, Tensor) else type(pixels).__name__
            raise ValueError(
                "Expected the DataLoader to yield pixel values (images, channels, height, width), alone, in a pair "
                f"with labels, or in a dict under 'pixel_values'; found {found} in {name}."
            )
        return (pixels[0], None if labels is None else labels[0]) if batched else (pixels, labels)

    return split


@contextmanager
def _fixed_seed(loader: DataLoader) -> Iterator[None]:
    """Let samplers draw the same rows each time, and leave torch's generator and theirs as they were."""
    samplers = (loader.sampler, loader.batch_sampler, loader, getattr(loader.batch_sampler, "sampler", None))
    generators = {
        id(found): found for sampler in samplers if (found := getattr(sampler, "generator", None)) is not None
    }
    states = {key: generator.get_state() for key, generator in generators.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            yield
        finally:
            for key, generator in generators.items():
                generator.set_state(states[key])
