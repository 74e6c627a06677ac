# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Gives every layer its grids and its rounded weight, block after block, from a few dozen images.

Each unit is calibrated on what the already quantized part of the model really feeds it, and its weight is moved and
rounded so that its output comes back to that of the float model. The result computes with fake quantization; packing
turns it into integers.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq.architectures import grid_attention  # noqa: F401 (importing it registers it)
from optimum_mixq.architectures.attention import route_attention
from optimum_mixq.architectures.block_run import BlockRun, place
from optimum_mixq.architectures.describe import Architecture, Block, Unit, describe, require_image_size
from optimum_mixq.architectures.measuring import measuring
from optimum_mixq.architectures.replay import (
    captured_inputs,
    captured_outputs,
    lead_on,
    record_calls,
    record_hidden,
    replayed_outputs,
    run_block,
)
from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import ATTENTION, ATTENTION_CHILD, CalibrationOptions, MixQConfig
from optimum_mixq.quant.attention import AttentionQuantizer
from optimum_mixq.quant.grids import require_finite
from optimum_mixq.stages.calibration.attention import AttentionOperands, calibrate_attention, run_attention
from optimum_mixq.stages.calibration.ends import LastStates, calibrate_heads, calibrate_stem
from optimum_mixq.stages.calibration.linear import CalibratedLayers, group_bits, prepare_linear, start_linear
from optimum_mixq.stages.calibration.residuals import loosened, mend_residuals
from optimum_mixq.stages.calibration.rounders import NearestRounder, Rounder, rounder_of
from optimum_mixq.utils.bits import LARGEST_BITS, Bits
from optimum_mixq.utils.memory import return_freed_memory
from optimum_mixq.utils.progress import progress_bar


# Values (rows times channels) that the first block may be given at once: four images of a ViT-B of 224 pixels.
LARGEST_BATCH = 4 * 197 * 768


# The modules that take the place of a unit's own at other bits, by unit, bits and module name.
Variants = dict[str, dict[Bits, dict[str, nn.Module]]]
# Has a module put out from then on what is given, batch by batch.
Replay = Callable[[str, Sequence[Tensor]], None]


class Refine(Protocol):
    """Improves each block once it is calibrated, in place.

    It is given the block with the calibration images' hidden states, what the float model's block puts out for them,
    and the same of held-out images, which calibration does not see.
    """

    held_out: Sequence[Tensor]  # batches (B, C, H, W)

    def __call__(
        self, run: BlockRun, expected: Sequence[Tensor], held: BlockRun, held_expected: Sequence[Tensor]
    ) -> None: ...


@dataclass(frozen=True)
class _Wanted:
    """The bits that units get, those that they are calibrated at as well, and how."""

    plan: BitPlan
    candidates: Sequence[Bits]
    options: CalibrationOptions
    mending: CalibrationOptions | None  # of blocks whose layers mend what came before them
    refine: Refine | None

    def mends(self, block: Block) -> bool:
        return self.mending is not None and len(block.residuals) > 0

    def options_of(self, block: Block) -> CalibrationOptions:
        return self.mending if self.mending is not None and self.mends(block) else self.options


@dataclass(frozen=True)
class _FloatBlock:
    """What a block of the float model computed, by module name and batch; outputs are used up."""

    outputs: dict[str, list[Tensor]]
    residuals: dict[str, list[Tensor]]  # what the LayerNorms read to whose input something is added


def calibrate(
    model: PreTrainedModel,
    plan: BitPlan,
    calibration_images: Sequence[Tensor],
    config: MixQConfig,
    description: str = "Calibrating",
    refine: Refine | None = None,
) -> PreTrainedModel:
    """Return a copy of `model` whose layers and attention are fake-quantized; `model` itself is left as it is.

    `calibration_images` are batches (B, C, H, W) as the model takes them; `description` is the progress bar's.
    Under the configuration's `reconstruction`, layers also mend what the layers before them did to the hidden states
    that their output is added to. Each block is calibrated on what those before it put out once `refine` has improved
    them.
    """
    mend = config.reconstruction is not None
    return calibrate_variants(
        model, plan, calibration_images, config, (), description=description, mend=mend, refine=refine
    )[0]


@torch.no_grad()
def calibrate_variants(
    model: PreTrainedModel,
    plan: BitPlan,
    calibration_images: Sequence[Tensor],
    config: MixQConfig,
    candidates: Sequence[Bits],
    convert: Callable[[nn.Module], nn.Module] = lambda module: module,
    description: str = "Calibrating",
    mend: bool = False,
    refine: Refine | None = None,
) -> tuple[PreTrainedModel, Variants]:
    """Return what `calibrate` does, and each unit once more at each of the other candidate bits.

    Layers mend what those before them did if `mend` says so.
    A variant is calibrated on what the units before it put out at the bits of the plan. Its modules are converted
    block by block: packed ones take a fraction of the memory.
    """
    architecture = describe(model)
    plan.check_fits(architecture)
    _require_float(model)
    for pixels in calibration_images:
        require_image_size(model, (pixels.shape[-2], pixels.shape[-1]))
    # The images' activations are held for one batch at a time: small batches keep them small.
    calibration_images = _split_batches(model, architecture, calibration_images)
    with measuring(model):
        quantized = copy.deepcopy(model)
        _attach_attention(quantized, architecture)
        with measuring(quantized):
            options, images = config.calibration, sum(map(len, calibration_images))
            mending = loosened(options, images) if mend else None
            wanted = _Wanted(plan, [Bits(*bits) for bits in candidates], options, mending, refine)
            return quantized, _calibrate_blocks(model, quantized, calibration_images, wanted, convert, description)


def _calibrate_blocks(
    model: PreTrainedModel,
    quantized: PreTrainedModel,
    calibration_images: Sequence[Tensor],
    wanted: _Wanted,
    convert: Callable[[nn.Module], nn.Module],
    description: str,
) -> Variants:
    """Calibrate `quantized` in place, block after block, and return the units' variants."""
    architecture = describe(model)
    calibrate_stem(quantized, architecture, calibration_images, wanted.options)
    hidden, float_hidden = _start(quantized, calibration_images), _start(model, calibration_images)
    held_out = () if wanted.refine is None else wanted.refine.held_out
    held, float_held = _start(quantized, held_out), _start(model, held_out)
    # Of what a block is given, only hidden states depend on the images: one image shows the rest.
    calls = record_calls(model, architecture, calibration_images[0][:1].to(model.device, model.dtype))
    variants: Variants = {}
    with progress_bar(len(architecture.blocks), description, "block") as bar:
        for block in architecture.blocks:
            hidden, held = (
                [lead_on(quantized, architecture, calls, block, given) for given in states]
                for states in (hidden, held)
            )
            float_hidden, float_held = (
                [lead_on(model, architecture, calls, block, given) for given in states]
                for states in (float_hidden, float_held)
            )
            run = BlockRun(quantized, block, calls.blocks[block.name], hidden)
            modules = [name for unit in block.units for name in unit.modules]
            norms = [residual.norm for residual in block.residuals] if wanted.mends(block) else []
            with captured_outputs(model, modules) as outputs, captured_inputs(model, norms) as residuals:
                float_hidden = [run_block(model, block, states, run.call) for states in float_hidden]
            found, hidden = _calibrate_block(run, _FloatBlock(outputs, residuals), wanted)
            if wanted.refine is not None:
                float_held = [run_block(model, block, states, run.call) for states in float_held]
                held_run = replace(run, hidden=held)
                wanted.refine(run, float_hidden, held_run, float_held)
                hidden, held = run.outputs(), held_run.outputs()
            for unit, row in found.items():
                variants[unit] = {bits: {name: convert(part) for name, part in row[bits].items()} for bits in row}
            return_freed_memory()
            bar.update()
    states = LastStates(hidden, float_hidden)
    calibrate_heads(quantized, model, architecture, calls, calibration_images[0][:1], states, wanted.options)
    return variants


def _start(model: PreTrainedModel, images: Sequence[Tensor]) -> list[Tensor]:
    """Return what the first block is given, batch by batch."""
    architecture = describe(model)
    return [record_hidden(model, architecture, pixels.to(model.device, model.dtype)) for pixels in images]


def _calibrate_block(run: BlockRun, floats: _FloatBlock, wanted: _Wanted) -> tuple[Variants, list[Tensor]]:
    """Calibrate a block's units in forward order, in place; return their variants and the block's hidden states."""
    variants: Variants = {}
    # What is calibrated already is not computed again for the units behind it.
    with replayed_outputs(run.model) as replay:
        for unit in run.block.units:
            if unit.modules:
                outputs = [floats.outputs.pop(name) for name in unit.modules]
                if wanted.mends(run.block):
                    outputs = mend_residuals(run, unit, outputs, floats.residuals)
                variants[unit.name] = _calibrate_layers(run, unit, outputs, wanted, replay)
            elif unit.kind == "qk":  # "av" goes with it
                variants |= _calibrate_matmuls(run, wanted, replay)
        return variants, run.outputs()


def _calibrate_layers(
    run: BlockRun, unit: Unit, float_outputs: list[list[Tensor]], wanted: _Wanted, replay: Replay
) -> dict[Bits, dict[str, nn.Module]]:
    """Put a unit's layers at the plan's bits into the model, and return those at other bits."""
    own, options = wanted.plan.bits[unit.name], wanted.options_of(run.block)
    start = start_linear(run, unit, float_outputs, options)
    others = [bits for bits in wanted.candidates if bits != own]
    found = dict[Bits, CalibratedLayers]()
    for group in group_bits(start, [own, *others], options):
        prepared = prepare_linear(run, start, group[0], options)
        for rounder, part in _split_by_rounder(group, own, options):
            found |= prepared.round_to_each(part, options, rounder)
    chosen = found.pop(own)
    place(run.model, chosen.modules)
    for name, outputs in chosen.outputs():
        replay(name, outputs)
    return {bits: found[bits].modules for bits in others}


def _split_by_rounder(
    group: Sequence[Bits], own: Bits, options: CalibrationOptions
) -> Iterator[tuple[Rounder, list[Bits]]]:
    """Yield rounders, and the bits that each is to round weights to; the model has its `own` bits.

    Where a variant's input alone has other bits and the weight has the most, rounding the weight costs next to nothing
    beside rounding the input: the quick way will do.
    """
    can_be_quick = options.rounder is None and own.weight == LARGEST_BITS
    quick = [bits for bits in group if can_be_quick and bits != own and bits.weight == own.weight]
    rest = [bits for bits in group if bits not in quick]
    if rest:
        yield rounder_of(options), rest
    if quick:
        yield NearestRounder(options), quick


def _calibrate_matmuls(run: BlockRun, wanted: _Wanted, replay: Replay) -> Variants:
    """Put the attention at the plan's bits into the model, and return its matmuls at other bits."""
    operands = AttentionOperands(run, wanted.options_of(run.block))
    qk, av = run.block.unit("qk").name, run.block.unit("av").name
    qk_bits, av_bits = wanted.plan.bits[qk][1], wanted.plan.bits[av][1]
    chosen = calibrate_attention(operands, qk_bits, av_bits)
    place(run.model, {operands.name: chosen})
    replay(operands.name, run_attention(operands, chosen))
    return {
        qk: {
            bits: {operands.name: calibrate_attention(operands, bits[1], av_bits)}
            for bits in wanted.candidates
            if bits[1] != qk_bits
        },
        av: {
            bits: {operands.name: calibrate_attention(operands, qk_bits, bits[1])}
            for bits in wanted.candidates
            if bits[1] != av_bits
        },
    }


def _split_batches(
    model: PreTrainedModel, architecture: Architecture, calibration_images: Sequence[Tensor]
) -> list[Tensor]:
    """Return the images in even batches, of which the first block is given at most LARGEST_BATCH values."""
    with measuring(model):
        values = record_hidden(model, architecture, calibration_images[0][:1].to(model.device, model.dtype)).numel()
    return [
        part for batch in calibration_images for part in batch.chunk(math.ceil(len(batch) * values / LARGEST_BATCH))
    ]


def _attach_attention(quantized: PreTrainedModel, architecture: Architecture) -> None:
    """Let the model run our own attention, which rounds nothing yet."""
    for block in architecture.blocks:
        if block.attention is not None:
            operands = AttentionQuantizer(block.heads, block.head_size, None, None, quantized.device)
            quantized.get_submodule(block.attention).add_module(ATTENTION_CHILD, operands)
    route_attention(quantized, ATTENTION)


def _require_float(model: PreTrainedModel) -> None:
    if getattr(model, "quantization_method", None) is not None:
        raise ValueError("Expected a float model, found one that is quantized already. Load the float checkpoint.")
    for name, parameter in model.named_parameters():
        if parameter.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"Expected a float32 model to calibrate, found {parameter.dtype} in {name}. "
                "Load it with dtype=torch.float32."
            )
        require_finite(parameter, name)
