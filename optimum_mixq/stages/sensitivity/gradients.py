# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What each bit-width costs each unit, from gradients: no variant is run.

A small change d of the logits makes a divergence of d^T F d / 2 (docs/pipeline.md, "Sensitivity from gradients"). With
random probes v, E[v v^T] = F (`Task.probe`), that is E[s^2] / 2 with s = v^T d, and to first order s is what a unit
changes times the gradient of v^T logits there:

    <g, x dW^T + db>    for changes dW, db of a layer with input x and the gradient g at its output,
    <g, dx>             for a change dx of an operand and the gradient g there.

So one forward and a few backward passes tell of all widths of all units.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from optimum_mixq.architectures.describe import describe
from optimum_mixq.artifacts import SensitivityTable
from optimum_mixq.stages.sensitivity.changes import Change, VariantChanges
from optimum_mixq.stages.sensitivity.progress import Progress, Sums
from optimum_mixq.stages.sensitivity.registry import Method, SensitivityInputs, register_method
from optimum_mixq.stages.sensitivity.traces import Traced, UnitTrace, trace_units
from optimum_mixq.utils.bits import Bits
from optimum_mixq.utils.progress import progress_bar


# Backward passes per image.
PROBES = 4
# Images that are traced at once. They do not mix, so that this changes memory and time alone.
IMAGES_AT_ONCE = 8


@register_method
class Gradient(Method):
    """Damages of second order around the baseline's weights, from a few backward passes per image.

    Under `accelerate launch` each process takes every n-th group of images.
    """

    name = "gradient"

    def measure(self, inputs: SensitivityInputs, fingerprint: dict[str, str]) -> SensitivityTable:
        return _Measurement(inputs, fingerprint).run()

    def settings(self, inputs: SensitivityInputs) -> dict[str, Any]:
        return {**super().settings(inputs), "probes": PROBES, "probe_seed": inputs.seed}

    def metrics(self) -> tuple[str, ...]:
        return ("shift",)


def draw_signs(images: int, outputs: int, probes: int, seed: int) -> Tensor:
    """Return signs (probes, images, outputs) with a mean of signs signs^T that is the identity, or near it.

    Where there are no more outputs than probes, one output after the other takes the place of random signs: the mean
    is exact then.
    """
    if outputs <= probes:
        return outputs**0.5 * torch.eye(outputs)[:, None].expand(outputs, images, outputs)
    generator = torch.Generator().manual_seed(seed)
    # Image by image, so that an image's signs do not depend on how many come after it.
    signs = torch.randint(2, (images, probes, outputs), generator=generator, dtype=torch.int8)
    return (2 * signs - 1).transpose(0, 1)


def find_effects(trace: UnitTrace, changes: Mapping[Bits, Change], images: int) -> dict[Bits, Tensor]:
    """Return, by bits, the change s (probes, images) of v^T logits to first order, in float64."""
    probes = len((trace.operands + trace.outputs)[0].gradients)
    found = {}
    for bits, change in changes.items():
        total = torch.zeros(probes, images, dtype=torch.float64)
        if change.layers is not None:
            source = trace.operands[0].values
            for (weight, bias), output in zip(change.layers(), trace.outputs, strict=True):
                total += _multiply(F.linear(source, weight, bias), output, images)
        if change.operands is not None:
            for rounding, operand in zip(change.operands, trace.operands, strict=True):
                total += _multiply(rounding(operand.values), operand, images)
        found[bits] = total
    return found


def _multiply(change: Tensor, traced: Traced, images: int) -> Tensor:
    """Return a change times each probe's gradient, (probes, images); windows of an image lie side by side."""
    rows = change.reshape(images, -1)
    products = [torch.linalg.vecdot(gradient.reshape(images, -1), rows) for gradient in traced.gradients]
    return torch.stack(products).double().cpu()


class _Measurement:
    """One table: the sums of s^2 / 2 over images and probes, a few images at a time."""

    def __init__(self, inputs: SensitivityInputs, fingerprint: dict[str, str]) -> None:
        self.inputs, self.fingerprint = inputs, fingerprint
        self.architecture = describe(inputs.model)
        self.groups = [part for batch in inputs.batches for part in batch.pixel_values.split(IMAGES_AT_ONCE)]
        steps = {"candidates": str(inputs.candidates), "batches": str([len(group) for group in self.groups])}
        self.progress = Progress(inputs.progress_file, {**fingerprint, **steps})
        baseline, variants = inputs.calibrate(inputs.candidates)
        self.changes = VariantChanges(baseline, inputs.baseline, variants)

    @torch.no_grad()
    def run(self) -> SensitivityTable:
        mine = range(self.progress.rank, len(self.groups), self.progress.processes)
        total = sum(len(self.groups[number]) for number in mine)
        done = sum(len(self.groups[number]) for number in mine if self.progress.is_done(number))
        signs = self._draw_signs().split([len(group) for group in self.groups], 1)
        with progress_bar(total, "Sensitivity", "image", self.progress.rank == 0, done) as bar:
            for number in mine:
                if not self.progress.is_done(number):
                    self.progress.add(self._measure_group(self.groups[number], signs[number]), number)
                    bar.update(len(self.groups[number]))
        return self._make_table(self.progress.gather())

    def _draw_signs(self) -> Tensor:
        first = self.groups[0][:1].to(self.changes.model.device)
        outputs = self.changes.model(pixel_values=first).logits.shape[-1]
        return draw_signs(sum(map(len, self.groups)), outputs, PROBES, self.inputs.seed)

    def _measure_group(self, pixels: Tensor, signs: Tensor) -> Sums:
        """Return the damages, summed over images."""
        model, found = self.changes.model, Sums()
        pixels, signs = pixels.to(model.device, model.dtype), signs.to(model.device, model.dtype)
        units = {unit.name: unit for unit in self.architecture.units}
        for traces in trace_units(model, self.architecture, pixels, signs, self.inputs.temperature):
            for name, trace in traces.items():
                effects = find_effects(trace, self.changes.of(units[name]), len(pixels))
                found[name] = {
                    str(Bits(*bits)): float(effect.square().mean(0).sum()) / 2 for bits, effect in effects.items()
                }
        return found

    def _make_table(self, sums: Sums) -> SensitivityTable:
        count = sum(map(len, self.groups))
        wanted = {Bits(*bits) for bits in (*self.inputs.candidates, self.inputs.baseline)}
        table = {}
        for unit in self.architecture.units:
            row = {Bits.parse(text): value / count for text, value in sums[unit.name].items()}
            # A matmul has no weight: where its operands' bits are the baseline's, it is the baseline.
            table[unit.name] = row | dict.fromkeys(wanted - set(row), 0.0)
        return SensitivityTable(table, self.inputs.baseline, 0.0, self.inputs.metric, count, self.fingerprint)
