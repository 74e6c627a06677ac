# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""A table from what passes through each unit and the gradients there: what its methods share.

A few images at a time go through the model once, with a few backward passes; what a unit's other bits change there
(`VariantChanges`), a method turns into a damage. No variant is run.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from optimum_mixq.architectures.describe import describe
from optimum_mixq.architectures.measuring import measuring
from optimum_mixq.architectures.replay import record_hidden
from optimum_mixq.artifacts import SensitivityTable
from optimum_mixq.images.batches import Batch
from optimum_mixq.stages.sensitivity.changes import Change, VariantChanges
from optimum_mixq.stages.sensitivity.moments import Sums, make_table, sum_images
from optimum_mixq.stages.sensitivity.progress import Progress
from optimum_mixq.stages.sensitivity.registry import FIRST_CHECK, Method, SensitivityInputs
from optimum_mixq.stages.sensitivity.traces import UnitTrace, trace_units
from optimum_mixq.tasks import Task, run_model, task_of
from optimum_mixq.utils.bits import Bits
from optimum_mixq.utils.progress import progress_bar


# Numbers of hidden states that are traced at once: eight images of a ViT-B of 224 pixels. Images do not mix, so that
# this changes memory and time alone.
TRACED_NUMBERS = 8 * 197 * 768


class TracedMethod(Method):
    """A method that reads damages off a unit's trace.

    Under `accelerate launch` each process takes every n-th group of images; then all images are taken, whatever
    `SensitivityInputs.enough` would say.
    """

    probes: ClassVar[int]  # backward passes per image

    def start(self, task: Task, logits: Tensor, labels: Tensor | None, signs: Tensor, temperature: float) -> Tensor:
        """Return v (B, ...): gradients of v^T logits are traced. `signs` (B, ...) are random, or a basis."""
        return task.probe(logits, signs, temperature)

    @abstractmethod
    def damages(
        self, trace: UnitTrace, changes: Mapping[Bits, Change], baseline: Bits, images: int
    ) -> dict[Bits, Tensor]:
        """Return the damage of a unit's changes to each image (images,) in float64, by bits."""

    def measure(self, inputs: SensitivityInputs, fingerprint: dict[str, str]) -> SensitivityTable:
        return _Measurement(self, inputs, fingerprint).run()

    def settings(self) -> dict[str, Any]:
        return {"probes": self.probes}

    def metrics(self) -> tuple[str, ...]:
        return ("shift",)


def draw_signs(sizes: Sequence[int], outputs: Sequence[int], probes: int, seed: int) -> Iterator[Tensor]:
    """Yield, for each group of so many images, signs (probes, images, *outputs).

    The mean of signs signs^T is the identity, or near it. Where there are no more outputs than probes, one output
    after the other takes the place of random signs: the mean is exact then.
    """
    count, generator = math.prod(outputs), torch.Generator().manual_seed(seed)
    for images in sizes:
        if count <= probes:
            yield count**0.5 * torch.eye(count).view(count, 1, *outputs).expand(count, images, *outputs)
        else:
            # Image by image, so that an image's signs do not depend on how many come after it.
            signs = torch.randint(2, (images, probes, *outputs), generator=generator, dtype=torch.int8)
            yield (2 * signs - 1).transpose(0, 1)


def group_images(batches: Sequence[Batch], most: int) -> list[Batch]:
    """Return the images in groups of at most that many, none of which crosses a multiple of `FIRST_CHECK` images."""
    groups, position = [], 0
    for batch in batches:
        start = 0
        while start < len(batch):
            size = min(most, FIRST_CHECK - position % FIRST_CHECK, len(batch) - start)
            groups.append(batch.part(slice(start, start + size)))
            start, position = start + size, position + size
    return groups


def _sum_damages(measured: Mapping[str, Mapping[Bits, Tensor]], first: int) -> Sums:
    """Return the sums of damages (images,) of each unit at each width, moved to the host at once: that waits."""
    found: Sums = {name: {} for name in measured}
    rows = [row for damages in measured.values() for row in damages.values()]
    keys = [(name, str(Bits(*bits))) for name, damages in measured.items() for bits in damages]
    if rows:
        for (name, bits), row in zip(keys, torch.stack(rows).cpu(), strict=True):
            found[name][bits] = sum_images(row, first)
    return found


class _Measurement:
    """One table: the moments of damages over images, a few images at a time."""

    def __init__(self, method: TracedMethod, inputs: SensitivityInputs, fingerprint: dict[str, str]) -> None:
        self.method, self.inputs, self.fingerprint = method, inputs, fingerprint
        self.architecture = describe(inputs.model)
        self.outputs, at_once = self._try_one_image()
        self.groups = group_images(inputs.batches, at_once)
        self.sizes = [len(group) for group in self.groups]
        steps = {"candidates": str(inputs.candidates), "batches": str(self.sizes)}
        self.progress = Progress(inputs.progress_file, {**fingerprint, **steps})
        baseline, variants = inputs.calibrate(inputs.candidates)
        self.changes = VariantChanges(baseline, inputs.baseline, variants)

    @torch.no_grad()
    def run(self) -> SensitivityTable:
        mine = range(self.progress.rank, len(self.groups), self.progress.processes)
        left = {number for number in mine if not self.progress.is_done(number)}
        total, images = sum(self.sizes[number] for number in mine), sum(self.sizes)
        done = total - sum(self.sizes[number] for number in left)
        signs = draw_signs(self.sizes, self.outputs, self.method.probes, self.inputs.seed)
        with progress_bar(total, "Sensitivity", "image", self.progress.rank == 0, done) as bar:
            for number, drawn in enumerate(signs):
                if number not in left:
                    continue
                first = sum(self.sizes[:number])
                if self._is_enough(first):
                    images = bar.total = first  # the bar is full
                    break
                self.progress.add(self._measure_group(self.groups[number], drawn, first), number)
                bar.update(self.sizes[number])
        return self._make_table(self.progress.gather(), images)

    def _is_enough(self, images: int) -> bool:
        """Return whether the first images, which are those that are done, need no more after them."""
        enough, doublings = self.inputs.enough, images // FIRST_CHECK
        checked = images % FIRST_CHECK == 0 and doublings.bit_count() == 1
        if enough is None or self.progress.processes > 1 or not checked:
            return False
        return enough(self._make_table(self.progress.sums, images))

    def _try_one_image(self) -> tuple[tuple[int, ...], int]:
        """Return the shape of the model's outputs for one image, and the number of images to trace at once."""
        model = self.inputs.model
        image = self.inputs.batches[0].pixel_values[:1].to(model.device, model.dtype)
        with measuring(model), torch.no_grad():
            numbers = record_hidden(model, self.architecture, image).numel()
            return tuple(run_model(model, image).shape[1:]), max(1, TRACED_NUMBERS // numbers)

    def _measure_group(self, group: Batch, signs: Tensor, first: int) -> Sums:
        """Return the damages, summed over the images from position `first` on."""
        model, measured = self.changes.model, dict[str, Mapping[Bits, Tensor]]()
        pixels, signs = group.pixel_values.to(model.device, model.dtype), signs.to(model.device, model.dtype)
        labels = None if group.labels is None else group.labels.to(model.device)
        units, task = {unit.name: unit for unit in self.architecture.units}, task_of(model)

        def start(logits: Tensor) -> list[Tensor]:
            return [self.method.start(task, logits, labels, row, self.inputs.temperature) for row in signs]

        for traces in trace_units(model, self.architecture, pixels, start):
            for name, trace in traces.items():
                changes, measured[name] = self.changes.of(units[name]), {}
                if changes:
                    measured[name] = self.method.damages(trace, changes, self.inputs.baseline, len(pixels))
        return _sum_damages(measured, first)

    def _make_table(self, sums: Sums, images: int) -> SensitivityTable:
        units = [unit.name for unit in self.architecture.units]
        return make_table(self.inputs, self.fingerprint, sums, units, images)
