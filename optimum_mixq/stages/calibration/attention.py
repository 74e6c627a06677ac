# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Calibrates the operands of one attention; the model itself is left as it is."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optimum_mixq.architectures.block_run import BlockRun
from optimum_mixq.config import ATTENTION_CHILD, CalibrationOptions
from optimum_mixq.quant.arithmetics import arithmetic_of
from optimum_mixq.quant.attention import AttentionQuantizer
from optimum_mixq.quant.grids import UniformGrid
from optimum_mixq.quant.softmax_grids import SoftmaxGrid, softmax_grid_of
from optimum_mixq.stages.calibration.observers import Observation, RowObserver, searched_grid


class AttentionOperands:
    """What the attention of a block is given: query, key, value; and at any bits the grids of these and of softmax."""

    def __init__(self, run: BlockRun, options: CalibrationOptions) -> None:
        attention = run.block.attention
        assert attention is not None
        self.name = f"{attention}.{ATTENTION_CHILD}"  # of the quantizer
        self.shape = (run.block.heads, run.block.head_size)
        self.device = run.model.device
        self.arguments = run.inputs_of(self.name)  # of the quantizer, batch by batch
        by_channel = arithmetic_of(options.arithmetic).attends_by_channel
        self._by_channel = {"query": by_channel, "key": by_channel, "value": True}
        self._observations = {name: self._observe(place, name) for place, name in enumerate(self._by_channel)}
        self._grids: dict[tuple[str, int], UniformGrid] = {}
        self.softmax = options.softmax
        self._softmax_grids: dict[int, SoftmaxGrid] = {}

    def grid(self, name: str, bits: int) -> UniformGrid:
        """Return the grid (heads, head size) of "query", "key" or "value"."""
        if (name, bits) not in self._grids:
            found = searched_grid(self._observations[name], bits)
            heads, size = self.shape
            shape = (heads, size) if self._by_channel[name] else (heads, 1)
            scale, zero_point = (values.view(shape).expand(heads, size) for values in (found.scale, found.zero_point))
            self._grids[name, bits] = UniformGrid(scale, zero_point, bits)
        return self._grids[name, bits]

    def softmax_grid(self, bits: int) -> SoftmaxGrid:
        """Return the grid of softmax: of those of its kind, the one with the least error of what attention puts out.

        Query, key and value are not rounded for that, so that their bits do not matter.
        """
        if bits not in self._softmax_grids:
            self._softmax_grids[bits] = choose_grid(softmax_grid_of(self.softmax), bits, self.arguments)
        return self._softmax_grids[bits]

    def _observe(self, place: int, name: str) -> Observation:
        observer = RowObserver(f"{name} of {self.name.removesuffix(f'.{ATTENTION_CHILD}')}")
        for arguments in self.arguments:
            batch = arguments[place]  # (B, heads, T, head size)
            rows = batch.transpose(1, 2).flatten(2) if self._by_channel[name] else batch.permute(0, 2, 3, 1)
            observer.observe(rows)  # (..., heads * head size), or (..., heads)
        return observer.result()


@torch.no_grad()
def calibrate_attention(operands: AttentionOperands, qk_bits: int, av_bits: int) -> AttentionQuantizer:
    """Return the attention whose query and key have `qk_bits`, and whose softmax and value have `av_bits`."""
    quantizer = AttentionQuantizer(*operands.shape, qk_bits, av_bits, operands.device, operands.softmax)
    quantizer.set_softmax_grid(operands.softmax_grid(av_bits))
    for name, bits in (("query", qk_bits), ("key", qk_bits), ("value", av_bits)):
        quantizer.set_grid(name, operands.grid(name, bits))
    return quantizer.eval()


def run_attention(operands: AttentionOperands, quantizer: AttentionQuantizer) -> list[Any]:
    """Return what the quantizer puts out, batch by batch."""
    return [quantizer(*arguments) for arguments in operands.arguments]


def choose_grid(kind: type[SoftmaxGrid], bits: int, arguments: Sequence[Any]) -> SoftmaxGrid:
    """Return the grid of a kind with the least squared error of what attention puts out.

    `arguments` are those of attention, batch by batch: query, key, value, mask, scaling.
    """
    grids = [kind(bits, setting) for setting in kind.settings(bits)] or [kind(bits)]
    if len(grids) == 1:
        return grids[0]
    errors = torch.zeros(len(grids), dtype=torch.float64)
    for query, key, value, mask, scaling, *_ in arguments:
        scores: Tensor = query @ key.transpose(-1, -2) * scaling  # (B, heads, T, T)
        scores = scores if mask is None else scores + mask
        exact = scores.softmax(-1)
        added = [((grid.softmax(scores) - exact) @ value).square().sum().double() for grid in grids]
        errors += torch.stack(added).cpu()
    return grids[int(errors.argmin())]
