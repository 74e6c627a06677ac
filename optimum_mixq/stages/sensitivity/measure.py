# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What it costs the network to have one unit at other bits while all others stay at a baseline."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq.architectures.describe import Architecture, Block, describe, replace_module
from optimum_mixq.architectures.measuring import measuring
from optimum_mixq.architectures.replay import finish, record_calls, record_hidden, run_block
from optimum_mixq.artifacts import SensitivityTable, bits_from_text, bits_to_text, short_bits
from optimum_mixq.images.batches import Batch
from optimum_mixq.images.fingerprints import fingerprint_inputs
from optimum_mixq.quant.grids import require_finite
from optimum_mixq.tasks import Task, task_of
from optimum_mixq.utils.bits import Bits
from optimum_mixq.utils.files import read_json, write_json
from optimum_mixq.utils.progress import progress_bar


Metric = Literal["shift", "kl", "cross_entropy", "accuracy"]
METRICS: tuple[Metric, ...] = ("shift", "kl", "cross_entropy", "accuracy")

# Modules that take the place of a unit's own, by unit, bits and module name.
Variants = Mapping[str, Mapping[Bits, Mapping[str, nn.Module]]]


@torch.no_grad()
def measure_sensitivity(
    model: PreTrainedModel,
    baseline: PreTrainedModel,
    baseline_bits: Bits,
    variants: Variants,
    batches: Iterable[Batch],
    metric: Metric = "shift",
    temperature: float = 1.0,
    progress_file: str | Path | None = None,
    fingerprint: Mapping[str, str] | None = None,
) -> SensitivityTable:
    """Return the rise of the metric when one unit of `baseline` is replaced by each of its `variants`.

    The metric is, averaged over images, KL(baseline || quantized) ("shift"), KL(float || quantized) ("kl"), both of
    logits divided by the temperature and times its square, the loss against the labels ("cross_entropy"), or the share
    of wrong predictions ("accuracy"). Other tasks than one class per image have a divergence of their own in place of
    KL. `model` is the float model. What comes before the changed block is computed once per batch.

    With `progress_file` the sums are saved as they grow, and a run that was stopped goes on where it was; a file with
    another fingerprint is refused. Without a `fingerprint` it is made of the weights, the images and the metric. Under
    `accelerate launch` each process takes every n-th block.
    """
    if metric not in METRICS:
        raise ValueError(f"Expected metric to be one of {', '.join(METRICS)}, found {metric!r}.")
    architecture = describe(model)
    held = list(batches)
    if not held:
        raise ValueError("There are no images to measure sensitivity on.")
    if metric in ("cross_entropy", "accuracy") and any(batch.labels is None for batch in held):
        raise ValueError(f"The metric '{metric}' needs labels, and these images have none: use metric='shift'.")
    rank, processes = _process()
    marks = dict(fingerprint or fingerprint_inputs(model, held, {"metric": metric, "baseline": baseline_bits}))
    candidates = sorted({bits for row in variants.values() for bits in row})
    steps = {"candidates": str(candidates), "batches": str([len(batch) for batch in held])}
    progress = _Progress(progress_file, {**marks, **steps}, rank, processes)
    # A variant of an early block runs all blocks behind it: what is left is counted in blocks to run.
    runs = _count_runs(architecture, variants)
    mine = range(rank, len(runs), processes)
    total = len(held) * sum(runs[block] for block in mine)
    done = sum(runs[block] for batch in range(len(held)) for block in mine if progress.is_done(batch, block))
    bar = progress_bar(total, "Sensitivity", "block", rank == 0, done)
    with bar, measuring(model), measuring(baseline):
        for number, batch in enumerate(held):
            _measure_batch(model, baseline, architecture, variants, batch, number, metric, temperature, progress, bar)
    sums = _gather(progress.sums, processes)
    count = sum(len(batch) for batch in held)
    base = sums.pop("")["baseline"] / count
    table = {
        unit.name: {bits_from_text(text): value / count - base for text, value in sums[unit.name].items()}
        for unit in architecture.units
    }
    measured = {short_bits(bits) for row in variants.values() for bits in row}
    for row in table.values():
        # A matmul has no weight: where its operands' bits are the baseline's, it is the baseline.
        row |= dict.fromkeys((measured | {short_bits(baseline_bits)}) - set(row), 0.0)
    return SensitivityTable(table, baseline_bits, base, metric, count, marks)


def _measure_batch(
    model: PreTrainedModel,
    baseline: PreTrainedModel,
    architecture: Architecture,
    variants: Variants,
    batch: Batch,
    number: int,
    metric: Metric,
    temperature: float,
    progress: "_Progress",
    bar: Any,
) -> None:
    """Add one batch's damage of every variant to the sums, block by block; what is done already is passed over."""
    blocks = architecture.blocks
    mine = range(progress.rank, len(blocks), progress.processes)
    left = [index for index in mine if not progress.is_done(number, index)]
    if not left:
        return
    pixels = batch.pixel_values.to(model.device, model.dtype)
    reference = (baseline if metric == "shift" else model)(pixel_values=pixels).logits
    require_finite(reference, "the model's logits")
    task = task_of(model)
    calls = record_calls(baseline, architecture, pixels[:1])
    hidden = record_hidden(baseline, architecture, pixels)

    def damage(start: int, states: Tensor) -> float:
        for block in blocks[start:]:
            states = run_block(baseline, block, states, calls.blocks[block.name])
        bar.update(len(blocks) - start)
        logits = finish(baseline, architecture, calls, pixels[:1], states).logits
        return _metric_sum(task, logits, reference, batch.labels, metric, temperature)

    for index, block in enumerate(blocks):
        if index in left:
            found = _measure_block(baseline, block, variants, lambda index=index, hidden=hidden: damage(index, hidden))
            if index == 0:
                found[""] = {"baseline": damage(0, hidden)}
            progress.add(number, index, found)
        hidden = run_block(baseline, block, hidden, calls.blocks[block.name])


def _count_runs(architecture: Architecture, variants: Variants) -> list[int]:
    """Return how many blocks are run, per batch, for the variants of each block; the baseline counts to the first."""
    counts = [sum(len(variants[unit.name]) for unit in block.units) for block in architecture.blocks]
    counts[0] += 1
    return [count * (len(counts) - number) for number, count in enumerate(counts)]


def _measure_block(baseline: PreTrainedModel, block: Block, variants: Variants, damage: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for unit in block.units:
        found[unit.name] = {}
        for bits, modules in variants[unit.name].items():
            with _replaced(baseline, modules):
                found[unit.name][bits_to_text(short_bits(bits))] = damage()
    return found


def _metric_sum(
    task: Task, logits: Tensor, reference: Tensor, labels: Tensor | None, metric: Metric, temperature: float
) -> float:
    """Return the sum over images, in float64."""
    if metric in ("shift", "kl"):
        return float(task.divergence(logits.double(), reference.double(), temperature).sum())
    assert labels is not None
    labels = labels.to(logits.device)
    if metric == "cross_entropy":
        return float(task.loss(logits.double(), task.targets(labels, logits.shape[-1])).sum())
    accuracy = task.accuracy(logits, labels)
    if accuracy is None:
        raise ValueError("The metric 'accuracy' needs classes, and this model's outputs are numbers: use 'shift'.")
    return len(logits) * (1 - accuracy)


@contextmanager
def _replaced(model: PreTrainedModel, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    originals = {name: model.get_submodule(name) for name in modules}
    for name, module in modules.items():
        replace_module(model, name, module)
    try:
        yield
    finally:
        for name, module in originals.items():
            replace_module(model, name, module)


class _Progress:
    """The sums so far, and which (batch, block) are in them; saved after each."""

    def __init__(self, path: str | Path | None, marks: dict[str, str], rank: int, processes: int) -> None:
        self.rank, self.processes, self.marks = rank, processes, marks
        self.sums: dict[str, dict[str, float]] = {}
        self._done: set[tuple[int, int]] = set()
        self._path = None if path is None else Path(path)
        if self._path is not None and processes > 1:
            self._path = self._path.with_name(f"{self._path.name}.{rank}-of-{processes}")
        if self._path is not None and self._path.exists():
            self._load(self._path)

    def _load(self, path: Path) -> None:
        content = read_json(path)
        different = [name for name, mark in self.marks.items() if content.get("fingerprint", {}).get(name) != mark]
        if different:
            raise ValueError(
                f"{path} holds a sensitivity measured with other {' and '.join(different)}. Delete it to measure "
                "anew, or choose another folder."
            )
        self.sums, self._done = content["sums"], {(batch, block) for batch, block in content["done"]}

    def is_done(self, batch: int, block: int) -> bool:
        return (batch, block) in self._done

    def add(self, batch: int, block: int, found: Mapping[str, Mapping[str, float]]) -> None:
        for unit, row in found.items():
            sums = self.sums.setdefault(unit, {})
            for bits, value in row.items():
                sums[bits] = sums.get(bits, 0.0) + value
        self._done.add((batch, block))
        if self._path is not None:
            content = {"fingerprint": self.marks, "done": sorted(self._done), "sums": self.sums}
            write_json(self._path, content)


def _process() -> tuple[int, int]:
    """Return this process' rank and their number, as `accelerate launch` tells them."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1
    from accelerate import PartialState

    state = PartialState()
    return int(state.process_index), int(state.num_processes)  # type: ignore[has-type]


def _gather(sums: dict[str, dict[str, float]], processes: int) -> dict[str, dict[str, float]]:
    if processes == 1:
        return dict(sums)
    from accelerate.utils import gather_object

    gathered: dict[str, dict[str, float]] = {}
    for part in gather_object([sums]):
        gathered |= part
    return gathered
