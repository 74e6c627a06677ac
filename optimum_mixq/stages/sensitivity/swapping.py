# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What it costs the network to have one unit at other bits while all others stay at a baseline."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq.architectures.describe import describe, replace_module
from optimum_mixq.architectures.measuring import measuring
from optimum_mixq.architectures.replay import ModelCalls, finish, lead_on, record_calls, record_hidden, run_block
from optimum_mixq.artifacts import SensitivityTable
from optimum_mixq.images.batches import Batch
from optimum_mixq.quant.grids import require_finite
from optimum_mixq.stages.sensitivity.moments import Sums, make_table, sum_images
from optimum_mixq.stages.sensitivity.progress import Progress
from optimum_mixq.stages.sensitivity.registry import (
    Compared,
    Method,
    SensitivityInputs,
    metric_of,
    register_method,
)
from optimum_mixq.tasks import run_model, task_of
from optimum_mixq.utils.bits import Bits
from optimum_mixq.utils.progress import progress_bar


@register_method
class Measured(Method):
    """Replaces one unit of the baseline by each of its variants and runs what comes behind it.

    The damage is the rise of the metric over the baseline's. Under `accelerate launch` each process takes every n-th
    block.
    """

    name = "measured"

    @torch.no_grad()
    def measure(self, inputs: SensitivityInputs, fingerprint: dict[str, str]) -> SensitivityTable:
        metric = metric_of(inputs.metric)
        if metric.needs_labels and not task_of(inputs.model).has_loss:
            raise ValueError(
                f"The metric '{inputs.metric}' needs a loss against labels, and there is none for the task "
                f"'{task_of(inputs.model).hub_task}': use metric='shift', the divergence from the baseline."
            )
        if metric.needs_labels and any(batch.labels is None for batch in inputs.batches):
            raise ValueError(
                f"The metric '{inputs.metric}' needs labels, and these images have none: use metric='shift'."
            )
        return _Measurement(inputs, fingerprint).run()


class _Measurement:
    """One table: the baseline with one variant after another, batch after batch, block after block."""

    def __init__(self, inputs: SensitivityInputs, fingerprint: dict[str, str]) -> None:
        self.inputs, self.fingerprint = inputs, fingerprint
        self.metric, self.task = metric_of(inputs.metric), task_of(inputs.model)
        self.architecture = describe(inputs.model)
        steps = {"candidates": str(inputs.candidates), "batches": str([len(batch) for batch in inputs.batches])}
        self.progress = Progress(inputs.progress_file, {**fingerprint, **steps})
        self.mine = range(self.progress.rank, len(self.architecture.blocks), self.progress.processes)
        self.baseline, self.variants = inputs.calibrate(inputs.candidates)
        self.bar = self._make_bar()

    def run(self) -> SensitivityTable:
        with self.bar, measuring(self.inputs.model), measuring(self.baseline):
            for number, batch in enumerate(self.inputs.batches):
                if any(not self.progress.is_done(number, block) for block in self.mine):
                    self._measure_batch(number, batch)
        return self._make_table(self.progress.gather())

    def _make_bar(self) -> Any:
        """Return the bar. A variant of an early block runs all blocks behind it: blocks to run are what is counted."""
        runs, batches = self._count_runs(), range(len(self.inputs.batches))
        total = len(batches) * sum(runs[block] for block in self.mine)
        done = sum(runs[block] for batch in batches for block in self.mine if self.progress.is_done(batch, block))
        return progress_bar(total, "Sensitivity", "block", self.progress.rank == 0, done)

    def _count_runs(self) -> list[int]:
        """Return how many blocks run, per batch, for the variants of each block."""
        blocks = self.architecture.blocks
        counts = [sum(len(self.variants[unit.name]) for unit in block.units) for block in blocks]
        return [count * (len(counts) - number) for number, count in enumerate(counts)]

    def _measure_batch(self, number: int, batch: Batch) -> None:
        """Add one batch's damage of every variant to the sums; what is done already is passed over."""
        pixels = batch.pixel_values.to(self.inputs.model.device, self.inputs.model.dtype)
        own = run_model(self.baseline, pixels)
        reference = own if self.metric.from_baseline else run_model(self.inputs.model, pixels)
        require_finite(reference, "the model's logits")
        calls = record_calls(self.baseline, self.architecture, pixels[:1])
        labels = None if batch.labels is None else batch.labels.to(reference.device)
        compared = Compared(self.task, own, reference, labels, self.inputs.temperature)
        step = _BatchStep(self, calls, pixels[:1], compared)
        first = sum(map(len, self.inputs.batches[:number]))
        hidden, taps = record_hidden(self.baseline, self.architecture, pixels), dict[str, Tensor]()
        for index, block in enumerate(self.architecture.blocks):
            hidden = lead_on(self.baseline, self.architecture, calls, block, hidden)
            if index in self.mine and not self.progress.is_done(number, index):
                found = self._measure_block(step, index, hidden, taps, first)
                self.progress.add(found, number, index)
            hidden = run_block(self.baseline, block, hidden, calls.blocks[block.name])
            if block.name in self.architecture.taps:
                taps[block.name] = hidden

    def _measure_block(
        self, step: "_BatchStep", index: int, hidden: Tensor, taps: Mapping[str, Tensor], first: int
    ) -> Sums:
        """Return the damages of a block's variants, summed over the images from position `first` on.

        `hidden` is what the block is given, and `taps` what the architecture's taps before it returned.
        """
        found: Sums = {}
        for unit in self.architecture.blocks[index].units:
            found[unit.name] = {}
            for bits, modules in self.variants[unit.name].items():
                with replaced_modules(self.baseline, modules):
                    rises = step.damages(index, hidden, taps) - step.baseline
                found[unit.name][str(Bits(*bits))] = sum_images(rises, first)
        if index == 0:
            found[""] = {"baseline": sum_images(step.baseline, first)}
        return found

    def _make_table(self, sums: Sums) -> SensitivityTable:
        images = sum(map(len, self.inputs.batches))
        even, odd, _ = sums[""]["baseline"]
        units = [unit.name for unit in self.architecture.units]
        return make_table(self.inputs, self.fingerprint, sums, units, images, (even + odd) / images)


class _BatchStep:
    """The images of one batch: from hidden states in front of any block to the damage of what the model is then."""

    def __init__(self, measurement: _Measurement, calls: ModelCalls, image: Tensor, compared: Compared) -> None:
        self.measurement, self.calls, self.image, self.compared = measurement, calls, image, compared
        self.baseline = measurement.metric.damages(compared)  # (B,)

    def damages(self, start: int, hidden: Tensor, taps: Mapping[str, Tensor]) -> Tensor:
        """Return the metric of each image (B,), with the blocks from number `start` run on `hidden`."""
        measurement, taps = self.measurement, dict(taps)
        model, architecture = measurement.baseline, measurement.architecture
        for number, block in enumerate(architecture.blocks[start:]):
            if number:
                hidden = lead_on(model, architecture, self.calls, block, hidden)
            hidden = run_block(model, block, hidden, self.calls.blocks[block.name])
            if block.name in architecture.taps:
                taps[block.name] = hidden
        measurement.bar.update(len(architecture.blocks) - start)
        outputs = finish(model, architecture, self.calls, self.image, hidden, taps)
        compared = self.compared
        logits = compared.task.logits(model, outputs)
        return measurement.metric.damages(
            Compared(compared.task, logits, compared.reference, compared.labels, compared.temperature)
        )


@contextmanager
def replaced_modules(model: PreTrainedModel, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Put modules in the place of the model's own, by name; on exit its own are back."""
    originals = {name: model.get_submodule(name) for name in modules}
    for name, module in modules.items():
        replace_module(model, name, module)
    try:
        yield
    finally:
        for name, module in originals.items():
            replace_module(model, name, module)
