# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Gives every layer its grids and its rounded weight, block after block, from a few dozen images.

Each unit is calibrated on what the already quantized part of the model really feeds it, and its weight is moved and
rounded so that its output comes back to that of the float model. The result computes with fake quantization; packing
turns it into integers.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq.architectures.attention import route_attention
from optimum_mixq.architectures.describe import (
    Architecture,
    Block,
    NormReaders,
    Unit,
    describe,
    replace_module,
    require_image_size,
)
from optimum_mixq.architectures.measuring import measuring
from optimum_mixq.architectures.replay import (
    BlockCall,
    ModelCalls,
    captured_inputs,
    captured_outputs,
    finish,
    inputs_of,
    record_calls,
    record_hidden,
    replayed_outputs,
    run_block,
)
from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import ATTENTION, ATTENTION_CHILD, STEM_AND_HEAD_BITS, MixQConfig
from optimum_mixq.quant.attention import AttentionQuantizer
from optimum_mixq.quant.grids import UniformGrid, require_finite, round_to_codes
from optimum_mixq.quant.layers import QuantConv2d, QuantLinear
from optimum_mixq.stages.calibration.joint_rounding import join_layers, round_layers
from optimum_mixq.stages.calibration.observers import (
    Observation,
    RowObserver,
    leveled_grid,
    minmax_grid,
    searched_grid,
    searched_weight_grid,
)
from optimum_mixq.stages.calibration.reparameterization import balance, clip_grid, fold, search_clip
from optimum_mixq.utils.bits import Bits
from optimum_mixq.utils.memory import return_freed_memory
from optimum_mixq.utils.progress import progress_bar


# Values (rows times channels) that the patch embedding may put out at once: four images of a ViT-B of 224 pixels.
LARGEST_BATCH = 4 * 196 * 768


# The modules that take the place of a unit's own at other bits, by unit, bits and module name.
Variants = dict[str, dict[Bits, dict[str, nn.Module]]]


def calibrate(
    model: PreTrainedModel,
    plan: BitPlan,
    pixel_batches: Sequence[Tensor],
    config: MixQConfig,
    description: str = "Calibrating",
) -> PreTrainedModel:
    """Return a copy of `model` whose layers and attention are fake-quantized; `model` itself is left as it is.

    `pixel_batches` are calibration images (B, C, H, W) as the model takes them; `description` is the progress bar's.
    """
    return calibrate_variants(model, plan, pixel_batches, config, (), description=description)[0]


@torch.no_grad()
def calibrate_variants(
    model: PreTrainedModel,
    plan: BitPlan,
    pixel_batches: Sequence[Tensor],
    config: MixQConfig,
    candidates: Sequence[Bits],
    convert: Callable[[nn.Module], nn.Module] = lambda module: module,
    description: str = "Calibrating",
) -> tuple[PreTrainedModel, Variants]:
    """Return what `calibrate` does, and beside it each unit once more at each of the other candidate bits.

    A variant is calibrated on what the units before it put out at the bits of the plan. Its modules are converted
    block by block: packed ones take a fraction of the memory.
    """
    architecture = describe(model)
    plan.check_fits(architecture)
    _require_float(model)
    for pixels in pixel_batches:
        require_image_size(model, (pixels.shape[-2], pixels.shape[-1]))
    # The images' activations are held for one batch at a time: small batches keep them small.
    pixel_batches = _split_batches(model.get_submodule(architecture.stem), pixel_batches)
    with measuring(model):
        quantized = copy.deepcopy(model)
        route_attention(quantized, ATTENTION)
        _attach_attention(quantized, architecture)
        with measuring(quantized):
            return quantized, _calibrate_blocks(
                model, quantized, plan, pixel_batches, config, candidates, convert, description
            )


def _calibrate_blocks(
    model: PreTrainedModel,
    quantized: PreTrainedModel,
    plan: BitPlan,
    pixel_batches: Sequence[Tensor],
    config: MixQConfig,
    candidates: Sequence[Bits],
    convert: Callable[[nn.Module], nn.Module],
    description: str,
) -> Variants:
    """Calibrate `quantized` in place, block after block, and return the units' variants."""
    architecture = describe(model)
    _calibrate_stem(quantized, architecture, pixel_batches)
    hidden = [record_hidden(quantized, architecture, pixels.to(model.device, model.dtype)) for pixels in pixel_batches]
    float_hidden = [
        record_hidden(model, architecture, pixels.to(model.device, model.dtype)) for pixels in pixel_batches
    ]
    # Beside hidden states a block is given nothing that depends on the images: one tells all.
    calls = record_calls(model, architecture, pixel_batches[0][:1].to(model.device, model.dtype))
    variants: Variants = {}
    with progress_bar(len(architecture.blocks), description, "block") as bar:
        for block in architecture.blocks:
            step = _BlockCalibration(model, quantized, block, plan, calls.blocks[block.name], config, candidates)
            float_hidden, hidden = step.run(float_hidden, hidden)
            for unit, row in step.variants.items():
                variants[unit] = {bits: {name: convert(part) for name, part in row[bits].items()} for bits in row}
            return_freed_memory()
            bar.update()
    _calibrate_heads(quantized, architecture, calls, pixel_batches[0][:1], hidden, config)
    return variants


class _BlockCalibration:
    """Calibrates the units of one block in forward order."""

    def __init__(
        self,
        model: PreTrainedModel,
        quantized: PreTrainedModel,
        block: Block,
        plan: BitPlan,
        call: BlockCall,
        config: MixQConfig,
        candidates: Sequence[Bits],
    ) -> None:
        self.model, self.quantized, self.block = model, quantized, block
        self.plan, self.call, self.config, self.candidates = plan, call, config, candidates
        self.variants: Variants = {unit.name: {} for unit in block.units}

    def run(self, float_hidden: Sequence[Tensor], hidden: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Calibrate the block and return the float and the quantized model's hidden states after it."""
        modules = [name for unit in self.block.units for name in unit.modules]
        with captured_outputs(self.model, modules) as float_outputs:
            outputs = [run_block(self.model, self.block, states, self.call) for states in float_hidden]
        # What is calibrated already is not computed again for the units behind it.
        with replayed_outputs(self.quantized) as replay:
            for unit in self.block.units:
                if unit.modules:
                    layers, inputs = self._calibrate_linear(unit, float_outputs, hidden)
                    for name, layer in zip(unit.modules, layers, strict=True):
                        kernel = layer.kernel()
                        codes = [round_to_codes(batch, layer.input_grid).to(torch.uint8) for batch in inputs]
                        replay(name, [kernel(batch, inputs[0].dtype) for batch in codes])
                elif unit.kind == "qk":
                    name, operands = self._calibrate_attention(unit, hidden)
                    quantizer = self.quantized.get_submodule(name)
                    replay(name, [quantizer(*arguments) for arguments in operands])
            return outputs, [run_block(self.quantized, self.block, states, self.call) for states in hidden]

    def _calibrate_linear(
        self, unit: Unit, float_outputs: dict[str, list[Tensor]], hidden: Sequence[Tensor]
    ) -> tuple[list[QuantLinear], list[Tensor]]:
        """Calibrate a unit and return its layers and their inputs; what the float model put out is used up."""
        targets = self._targets(unit, float_outputs)
        norm = next((norm for norm in self.block.norms if norm.readers == unit.modules), None)
        if self.config.arithmetic == "column":
            norm = None
        observation = self._observe(unit, inputs := self._inputs(unit.modules[0], hidden))
        touched = (*unit.modules, *([] if norm is None else [norm.norm]))
        originals = {name: self.quantized.get_submodule(name) for name in touched}
        for bits in [
            *(bits for bits in self.candidates if bits != self.plan.bits[unit.name]),
            self.plan.bits[unit.name],
        ]:
            for name in touched:
                replace_module(self.quantized, name, copy.deepcopy(originals[name]))
            layers = [self.quantized.get_submodule(name) for name in unit.modules]
            grid, seen = _input_grid(observation, bits[1], self.config), inputs
            if norm is None and self.config.level:
                grid = leveled_grid(grid, observation)
            if norm is not None:
                grid = self._fold(norm, layers, grid, inputs, bits[0])
                seen = self._inputs(unit.modules[0], hidden)
            rounded = round_layers(layers, grid, seen, targets, bits[0], self.config)
            for name, layer in zip(unit.modules, rounded, strict=True):
                replace_module(self.quantized, name, layer)
            self.variants[unit.name][bits] = {name: self.quantized.get_submodule(name) for name in touched}
        del self.variants[unit.name][self.plan.bits[unit.name]]
        return rounded, seen

    def _targets(self, unit: Unit, float_outputs: dict[str, list[Tensor]]) -> list[Tensor]:
        """Take what the float model's layers put out, side by side, and balance query and key."""
        outputs = [float_outputs.pop(name) for name in unit.modules]
        if unit.kind == "qkv" and self.config.balance and self.block.plain_scores:
            query, key = (self.quantized.get_submodule(name) for name in unit.modules[:2])
            outputs[:2] = balance(query, key, *outputs[:2])
        return outputs[0] if len(outputs) == 1 else [torch.cat(batch, -1) for batch in zip(*outputs, strict=True)]

    def _inputs(self, module: str, hidden: Sequence[Tensor]) -> list[Tensor]:
        return [arguments[0] for arguments in inputs_of(self.quantized, self.block, module, hidden, self.call)]

    def _observe(self, unit: Unit, inputs: list[Tensor]) -> Observation:
        observer = RowObserver(unit.name)
        for batch in inputs:
            observer.observe(batch)
        return observer.result()

    def _fold(
        self, norm: NormReaders, layers: list[nn.Linear], grid: UniformGrid, inputs: list[Tensor], weight_bits: int
    ) -> UniformGrid:
        deviations = self.config.clip
        if deviations == "search":
            rows = inputs[0].flatten(0, -2)
            deviations = search_clip(join_layers(layers)[0], grid, rows[:: max(1, len(rows) // 512)], weight_bits)
        clipped = clip_grid(grid, deviations)
        return fold(self.quantized.get_submodule(norm.norm), layers, clipped, norm.shift_foldable)

    def _calibrate_attention(self, unit: Unit, hidden: Sequence[Tensor]) -> tuple[str, list[tuple[Any, ...]]]:
        """Give the attention its grids and return its quantizer's name and arguments."""
        assert unit.attention is not None
        child = f"{unit.attention}.{ATTENTION_CHILD}"
        operands = inputs_of(self.quantized, self.block, child, hidden, self.call)
        quantizer: AttentionQuantizer = self.quantized.get_submodule(child)
        for kind, names in (("qk", ("query", "key")), ("av", ("value",))):
            matmul = self.block.unit(kind).name
            own = self.plan.bits[matmul]
            observed = {name: self._observe_operand(name, operands) for name in names}
            self._set_operands(quantizer, kind, observed, own[1])
            for bits in (bits for bits in self.candidates if bits[1] != own[1]):
                other = copy.deepcopy(quantizer)
                self._set_operands(other, kind, observed, bits[1])
                self.variants[matmul][bits] = {child: other}
        # The variants were copied before the other matmul had its grid.
        for kind, names in (("qk", ("value",)), ("av", ("query", "key"))):
            for modules in self.variants[self.block.unit(kind).name].values():
                variant = modules[child]
                assert isinstance(variant, AttentionQuantizer)
                variant.take_grids(quantizer, names)
        return child, operands

    def _observe_operand(self, name: str, operands: list[tuple[Any, ...]]) -> tuple[Observation, bool]:
        """Return what was seen of an operand (B, heads, T, head size), and whether per channel or per head."""
        position = ("query", "key", "value").index(name)
        per_channel = name == "value" or self.config.arithmetic == "column"
        observer = RowObserver(f"{name} of {self.block.attention}")
        for arguments in operands:
            batch = arguments[position]
            rows = batch.transpose(1, 2).flatten(2) if per_channel else batch.permute(0, 2, 3, 1)
            observer.observe(rows)  # (..., heads * head size), or (..., heads)
        return observer.result(), per_channel

    def _set_operands(
        self, quantizer: AttentionQuantizer, kind: str, observed: dict[str, tuple[Observation, bool]], bits: int
    ) -> None:
        heads, size = quantizer.mixq_query_scale.shape
        for name, (observation, per_channel) in observed.items():
            grid = searched_grid(observation, bits)
            shape = (heads, size) if per_channel else (heads, 1)
            scale, zero_point = grid.scale.view(shape), grid.zero_point.view(shape)
            whole = UniformGrid(scale.expand(heads, size), zero_point.expand(heads, size), bits)
            quantizer.set_grid(name, whole)
        if kind == "qk":
            quantizer.qk_bits = bits
        else:
            quantizer.av_bits = bits


def _input_grid(observation: Observation, bits: int, config: MixQConfig) -> UniformGrid:
    return searched_grid(observation, bits) if config.input_search else minmax_grid(observation, bits)


def _split_batches(stem: nn.Module, pixel_batches: Sequence[Tensor]) -> list[Tensor]:
    """Return the images in even batches, of which the patch embedding puts out at most LARGEST_BATCH values."""
    assert isinstance(stem, nn.Conv2d)
    height, width = pixel_batches[0].shape[-2:]
    values = stem.out_channels * (height // stem.stride[0]) * (width // stem.stride[1])
    return [part for batch in pixel_batches for part in batch.chunk(math.ceil(len(batch) * values / LARGEST_BATCH))]


def _calibrate_stem(quantized: PreTrainedModel, architecture: Architecture, pixel_batches: Sequence[Tensor]) -> None:
    stem = quantized.get_submodule(architecture.stem)
    observer = RowObserver(architecture.stem)
    for pixels in pixel_batches:
        observer.observe(pixels.to(quantized.device).permute(0, 2, 3, 1))
    input_grid = minmax_grid(observer.result(), STEM_AND_HEAD_BITS)
    weight_grid = searched_weight_grid(stem.weight.flatten(1), STEM_AND_HEAD_BITS)
    replace_module(quantized, architecture.stem, QuantConv2d(stem, weight_grid, input_grid))


def _calibrate_heads(
    quantized: PreTrainedModel,
    architecture: Architecture,
    calls: ModelCalls,
    image: Tensor,
    hidden: Sequence[Tensor],
    config: MixQConfig,
) -> None:
    observers = {name: RowObserver(name) for name in architecture.heads}
    for states in hidden:
        with captured_inputs(quantized, architecture.heads) as inputs:
            finish(quantized, architecture, calls, image.to(quantized.device, quantized.dtype), states)
        for name, observer in observers.items():
            observer.observe(inputs[name][0])
    for name, observer in observers.items():
        head = quantized.get_submodule(name)
        input_grid = minmax_grid(observer.result(), STEM_AND_HEAD_BITS)
        folded = head.weight * input_grid.scale
        weight_grid = searched_weight_grid(folded, STEM_AND_HEAD_BITS)
        bias = None if head.bias is None else head.bias.clone()
        replace_module(
            quantized, name, QuantLinear(head.weight.clone(), bias, weight_grid, input_grid, config.arithmetic)
        )


def _attach_attention(quantized: PreTrainedModel, architecture: Architecture) -> None:
    for block in architecture.blocks:
        if block.attention is not None:
            attention = quantized.get_submodule(block.attention)
            operands = AttentionQuantizer(block.heads, block.head_size, None, None, quantized.device)
            attention.add_module(ATTENTION_CHILD, operands)


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
