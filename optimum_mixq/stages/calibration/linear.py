# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Calibrates the linear layers of one unit; the model itself is left as it is."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from optimum_mixq.architectures.block_run import BlockRun
from optimum_mixq.architectures.describe import NormReaders, Unit
from optimum_mixq.config import CalibrationOptions
from optimum_mixq.quant.arithmetics import arithmetic_of
from optimum_mixq.quant.grids import UniformGrid, round_to_codes
from optimum_mixq.quant.layers import QuantLinear
from optimum_mixq.stages.calibration.joint_rounding import CorrectedLayers, correct_layers, join_layers
from optimum_mixq.stages.calibration.observers import (
    Observation,
    RowObserver,
    leveled_grid,
    minmax_grid,
    searched_grid,
)
from optimum_mixq.stages.calibration.reparameterization import balance, clip_grid, fold, search_clip
from optimum_mixq.stages.calibration.rounders import Rounder
from optimum_mixq.utils.bits import Bits


@dataclass(frozen=True)
class LinearStart:
    """What the calibration of a unit's linear layers starts from, at any bits."""

    unit: Unit
    layers: tuple[nn.Linear, ...]  # float copies
    norm: NormReaders | None  # the LayerNorm that scales are folded into
    inputs: list[Tensor]  # batch by batch, from what is quantized already
    targets: list[Tensor]  # what the float model's layers put out, side by side
    observation: Observation  # of the inputs


@dataclass(frozen=True)
class CalibratedLayers:
    """The layers of a unit at some bits."""

    modules: dict[str, nn.Module]  # by the names of those that they replace; a folded LayerNorm is among them
    inputs: list[Tensor]  # what the layers read, batch by batch

    def outputs(self) -> Iterator[tuple[str, list[Tensor]]]:
        """Yield the name of each layer and what it puts out, batch by batch."""
        for name, layer in self.modules.items():
            if isinstance(layer, QuantLinear):
                kernel = layer.kernel()
                codes = (round_to_codes(batch, layer.input_grid).to(torch.uint8) for batch in self.inputs)
                yield name, [kernel(batch, self.inputs[0].dtype) for batch in codes]


@dataclass(frozen=True)
class PreparedLayers:
    """The layers of a unit with the grid of their input; their weights are not rounded yet."""

    names: tuple[str, ...]
    corrected: CorrectedLayers
    folded: dict[str, nn.Module]  # the LayerNorm before them, if scales were folded into it
    inputs: list[Tensor]  # what the layers read, batch by batch

    def round_to_each(
        self, wanted: Sequence[Bits], options: CalibrationOptions, rounder: Rounder
    ) -> dict[Bits, CalibratedLayers]:
        """Return the layers at each of the wanted bits, all of which the input's grid suits."""
        found = self.corrected.round_to_each([bits.weight for bits in wanted], options, rounder)
        return {bits: CalibratedLayers(self._named(found[bits.weight]), self.inputs) for bits in wanted}

    def _named(self, layers: Sequence[nn.Module]) -> dict[str, nn.Module]:
        return dict(zip(self.names, layers, strict=True)) | self.folded


def start_linear(
    run: BlockRun, unit: Unit, float_outputs: list[list[Tensor]], options: CalibrationOptions
) -> LinearStart:
    """Return what the unit is calibrated from; `float_outputs` are those of the float model's layers, by batch."""
    layers = tuple(copy.deepcopy(run.model.get_submodule(name)) for name in unit.modules)
    if unit.kind == "qkv" and options.balance and run.block.plain_scores:
        float_outputs[:2] = balance(*layers[:2], *float_outputs[:2])
    targets = [torch.cat(batch, -1) for batch in zip(*float_outputs, strict=True)]
    norm = None
    if arithmetic_of(options.arithmetic).folds_norms:
        norm = next((norm for norm in run.block.norms if norm.readers == unit.modules), None)
    inputs = _inputs(run, unit)
    observer = RowObserver(unit.name)
    for batch in inputs:
        observer.observe(batch)
    return LinearStart(unit, layers, norm, inputs, targets, observer.result())


def group_bits(start: LinearStart, wanted: Iterable[Bits], options: CalibrationOptions) -> list[list[Bits]]:
    """Return the bits in groups for which the layers are prepared alike."""
    groups: dict[object, list[Bits]] = {}
    searched = start.norm is not None and options.clip == "search"  # for a weight of so many bits
    for bits in wanted:
        groups.setdefault(bits if searched else bits.activation, []).append(bits)
    return list(groups.values())


def prepare_linear(run: BlockRun, start: LinearStart, bits: Bits, options: CalibrationOptions) -> PreparedLayers:
    """Return the unit's layers as they are before their weights are rounded to any of a group's bits."""
    find = searched_grid if options.input_search else minmax_grid
    grid = find(start.observation, bits.activation)
    layers, inputs, folded = start.layers, start.inputs, dict[str, nn.Module]()
    if start.norm is not None:
        norm, layers, grid = _fold(run, start, start.norm, grid, bits.weight, options)
        folded = {start.norm.norm: norm}
        with run.replaced(folded):
            inputs = _inputs(run, start.unit)
    elif options.level:
        grid = leveled_grid(grid, start.observation)
    corrected = correct_layers(layers, grid, inputs, start.targets, options)
    return PreparedLayers(start.unit.modules, corrected, folded, inputs)


def _inputs(run: BlockRun, unit: Unit) -> list[Tensor]:
    return [arguments[0] for arguments in run.inputs_of(unit.modules[0])]


def _fold(
    run: BlockRun,
    start: LinearStart,
    readers: NormReaders,
    grid: UniformGrid,
    weight_bits: int,
    options: CalibrationOptions,
) -> tuple[nn.LayerNorm, tuple[nn.Linear, ...], UniformGrid]:
    """Return copies of the LayerNorm and of its readers with the grid's scales folded in, and the readers' grid."""
    deviations = options.clip
    if deviations == "search":
        rows = start.inputs[0].flatten(0, -2)
        weight, _ = join_layers(start.layers)
        deviations = search_clip(weight, grid, rows[:: max(1, len(rows) // 512)], weight_bits)
    norm, layers = copy.deepcopy((run.model.get_submodule(readers.norm), start.layers))
    return norm, layers, fold(norm, layers, clip_grid(grid, deviations), readers.shift_foldable)
