# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The grids of a packed layer, as files hold them."""

import torch
from torch import Tensor

from optimum_mixq.quant.bitpacking import int16_to_scale, scale_to_int16
from optimum_mixq.quant.grids import UniformGrid
from optimum_mixq.quant.prepared import PreparedModule


class StoredGrids(PreparedModule):
    """A module that keeps the grids of a weight, one per output, and of its input, one per channel, in buffers.

    Scales are float16 kept as int16 bits, since `.to(dtype)` and checkpoint loaders cast floating buffers.
    """

    mixq_weight_scale: Tensor
    mixq_weight_zero_point: Tensor
    mixq_input_scale: Tensor
    mixq_input_zero_point: Tensor
    weight_bits: int
    input_bits: int

    def register_grids(self, outputs: int, channels: int, device: torch.device | None) -> None:
        """Add the buffers, empty."""
        for name, size, dtype in (
            ("weight_scale", outputs, torch.int16),
            ("weight_zero_point", outputs, torch.uint8),
            ("input_scale", channels, torch.int16),
            ("input_zero_point", channels, torch.int16),
        ):
            self.register_buffer(f"mixq_{name}", torch.zeros(size, dtype=dtype, device=device))

    def store_grids(self, weight_grid: UniformGrid, input_grid: UniformGrid) -> None:
        """Fill the buffers, from grids of any shape."""
        self.mixq_weight_scale.copy_(scale_to_int16(weight_grid.scale.flatten()))
        self.mixq_weight_zero_point.copy_(weight_grid.zero_point.flatten())
        self.mixq_input_scale.copy_(scale_to_int16(input_grid.scale.flatten()))
        self.mixq_input_zero_point.copy_(input_grid.zero_point.flatten())

    @property
    def weight_grid(self) -> UniformGrid:
        """Return the grid (O, 1) of the weight's codes."""
        scale, zero_point = int16_to_scale(self.mixq_weight_scale), self.mixq_weight_zero_point.float()
        return UniformGrid(scale[:, None], zero_point[:, None], self.weight_bits)

    @property
    def input_grid(self) -> UniformGrid:
        """Return the grid (C,) of the input."""
        return UniformGrid(int16_to_scale(self.mixq_input_scale), self.mixq_input_zero_point.float(), self.input_bits)
