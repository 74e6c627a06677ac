# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What each bit-width costs each unit, from gradients: no variant is run.

A small change d of the logits makes a divergence of d^T F d / 2 (docs/pipeline.md, "Sensitivity from gradients"). With
random probes v, E[v v^T] = F (`Task.probe`), that is E[s^2] / 2 with s = v^T d, and to first order s is what a unit
changes times the gradient of v^T logits there:

    <g, x dW^T + db>    for changes dW, db of a layer with input x and the gradient g at its output,
    <g, dx>             for a change dx of an operand and the gradient g there.

So one forward and a few backward passes tell of all widths of all units.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from optimum_mixq.architectures.describe import describe
from optimum_mixq.architectures.measuring import measuring
from optimum_mixq.architectures.replay import record_hidden
from optimum_mixq.artifacts import SensitivityTable
from optimum_mixq.stages.sensitivity.changes import Change, LayerChange, VariantChanges
from optimum_mixq.stages.sensitivity.progress import Progress, Sums
from optimum_mixq.stages.sensitivity.registry import Method, SensitivityInputs, register_method
from optimum_mixq.stages.sensitivity.traces import Traced, UnitTrace, trace_units
from optimum_mixq.utils.bits import Bits
from optimum_mixq.utils.progress import progress_bar


# Backward passes per image. Images differ so much that more of them tell little.
PROBES = 2
# Numbers of hidden states that are traced at once: eight images of a ViT-B of 224 pixels. Images do not mix, so that
# this changes memory and time alone.
TRACED_NUMBERS = 8 * 197 * 768
# Numbers of the products of gradients and inputs at once: they stay in the cache.
CACHED_NUMBERS = 2**20


@register_method
class Gradient(Method):
    """Damages of second order around the baseline's weights, from a few backward passes per image.

    Under `accelerate launch` each process takes every n-th group of images.
    """

    name = "gradient"

    def measure(self, inputs: SensitivityInputs, fingerprint: dict[str, str]) -> SensitivityTable:
        return _Measurement(inputs, fingerprint).run()

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
    probes, device = len(trace.operands[0].gradients), trace.operands[0].values.device
    found = {bits: torch.zeros(probes, images, dtype=torch.float64, device=device) for bits in changes}
    for bits, change in changes.items():
        if change.operands:
            for rounding, operand in zip(change.operands, trace.operands, strict=True):
                found[bits] += _multiply(rounding(operand.values), operand, images)
    layers = {bits: change.layers() for bits, change in changes.items() if change.layers}
    for output, layer in zip(trace.outputs, zip(*layers.values(), strict=True), strict=True):
        effects = _multiply_weights(trace.operands[0].values, output, layer, images)
        for bits, effect in zip(layers, effects, strict=True):
            found[bits] += effect
    return found


def join_effects(effects: Mapping[Bits, Tensor], baseline: Bits) -> dict[Bits, Tensor]:
    """Return the effects, and beside them the sum for each pair of weight bits and activation bits known apart."""
    weights = [bits for bits in effects if bits[0] != baseline[0] and bits[1] == baseline[1]]
    activations = [bits for bits in effects if bits[0] == baseline[0] and bits[1] != baseline[1]]
    sums = {Bits(w[0], a[1]): effects[w] + effects[a] for w in weights for a in activations}
    return {**sums, **effects}


def _multiply(change: Tensor, traced: Traced, images: int) -> Tensor:
    """Return a change times each probe's gradient, (probes, images); windows of an image lie side by side."""
    rows = change.reshape(images, -1)
    products = [torch.linalg.vecdot(gradient.reshape(images, -1), rows) for gradient in traced.gradients]
    return torch.stack(products).double()


def _multiply_weights(inputs: Tensor, output: Traced, layer: Sequence[LayerChange], images: int) -> Tensor:
    """Return <g^T x, dW> + <g, db> (changes, probes, images), for x (..., C) and gradients g (..., O).

    g^T x (O, C) is made for each image and probe, a few rows at a time, and serves all changes.
    """
    x = inputs.reshape(images, -1, inputs.shape[-1])  # (B, N, C)
    gradients = torch.stack([gradient.reshape(*x.shape[:2], -1) for gradient in output.gradients], 2)  # (B, N, R, O)
    probes, outputs = gradients.shape[2:]
    weights = torch.stack([weight for weight, _ in layer])  # (changes, O, C)
    biases = torch.stack([x.new_zeros(outputs) if bias is None else bias for _, bias in layer])  # (changes, O)
    total = (gradients.sum(1) @ biases.T).flatten(0, 1).double()  # (B R, changes)
    step = max(1, CACHED_NUMBERS // (images * probes * x.shape[-1]))
    for start in range(0, outputs, step):
        part = gradients[..., start : start + step].flatten(2)  # (B, N, R o)
        products = (part.mT @ x).view(images * probes, -1)  # (B R, o C)
        total += products @ weights[:, start : start + step].flatten(1).T
    return total.view(images, probes, -1).permute(2, 1, 0)


class _Measurement:
    """One table: the sums of s^2 / 2 over images and probes, a few images at a time."""

    def __init__(self, inputs: SensitivityInputs, fingerprint: dict[str, str]) -> None:
        self.inputs, self.fingerprint = inputs, fingerprint
        self.architecture = describe(inputs.model)
        self.outputs, at_once = self._try_one_image()
        self.groups = [part for batch in inputs.batches for part in batch.pixel_values.split(at_once)]
        steps = {"candidates": str(inputs.candidates), "batches": str([len(group) for group in self.groups])}
        self.progress = Progress(inputs.progress_file, {**fingerprint, **steps, "probes": str(PROBES)})
        baseline, variants = inputs.calibrate(inputs.candidates)
        self.changes = VariantChanges(baseline, inputs.baseline, variants)

    @torch.no_grad()
    def run(self) -> SensitivityTable:
        mine = range(self.progress.rank, len(self.groups), self.progress.processes)
        total = sum(len(self.groups[number]) for number in mine)
        done = sum(len(self.groups[number]) for number in mine if self.progress.is_done(number))
        sizes = [len(group) for group in self.groups]
        signs = draw_signs(sum(sizes), self.outputs, PROBES, self.inputs.seed).split(sizes, 1)
        with progress_bar(total, "Sensitivity", "image", self.progress.rank == 0, done) as bar:
            for number in mine:
                if not self.progress.is_done(number):
                    self.progress.add(self._measure_group(self.groups[number], signs[number]), number)
                    bar.update(len(self.groups[number]))
        return self._make_table(self.progress.gather())

    def _try_one_image(self) -> tuple[int, int]:
        """Return the number of the model's outputs, and that of images to trace at once."""
        model = self.inputs.model
        image = self.inputs.batches[0].pixel_values[:1].to(model.device, model.dtype)
        with measuring(model), torch.no_grad():
            numbers = record_hidden(model, self.architecture, image).numel()
            return model(pixel_values=image).logits.shape[-1], max(1, TRACED_NUMBERS // numbers)

    def _measure_group(self, pixels: Tensor, signs: Tensor) -> Sums:
        """Return the damages, summed over images."""
        model, found = self.changes.model, Sums()
        pixels, signs = pixels.to(model.device, model.dtype), signs.to(model.device, model.dtype)
        units = {unit.name: unit for unit in self.architecture.units}
        for traces in trace_units(model, self.architecture, pixels, signs, self.inputs.temperature):
            for name, trace in traces.items():
                found[name] = {}
                if changes := self.changes.of(units[name]):
                    effects = join_effects(find_effects(trace, changes, len(pixels)), self.inputs.baseline)
                    damages = torch.stack(list(effects.values())).square().mean(1).sum(1) / 2
                    names = [str(Bits(*bits)) for bits in effects]
                    found[name] = dict(zip(names, damages.tolist(), strict=True))
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
