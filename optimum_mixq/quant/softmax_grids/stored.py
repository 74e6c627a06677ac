# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The softmax grid of one attention, as files hold it."""

import torch
from torch import Tensor, nn

from optimum_mixq.quant.softmax_grids.base import SoftmaxGrid, softmax_grid_of


class StoredSoftmaxGrid(nn.Module):
    """A module that rounds softmax. The setting of its grid, if the kind has settings, is in a buffer.

    It is int32, which all backends of torch.distributed broadcast: NCCL takes no int16 (torch 2.13).

    Forwards use `softmax_grid`: a GPU would be waited for each time the buffer is read. Once the buffer was filled by
    something else than `set_softmax_grid`, it has to be read again.
    """

    softmax_grid: SoftmaxGrid

    mixq_softmax_setting: Tensor

    def register_softmax_grid(self, name: str, bits: int, device: torch.device | None) -> None:
        """Say which kind of grid there is, at which bits; add the buffer, with the kind's first setting."""
        self.softmax_kind, self.softmax_bits = softmax_grid_of(name), bits
        settings = self.softmax_kind.settings(bits)
        if settings:
            first = torch.tensor(settings[:1], dtype=torch.int32, device=device)
            self.register_buffer("mixq_softmax_setting", first)
        self.softmax_grid = self.softmax_kind(bits, *settings[:1])

    def set_softmax_grid(self, grid: SoftmaxGrid) -> None:
        """Take the setting of a grid of the same kind and bits."""
        if self.softmax_kind.settings(self.softmax_bits):
            self.mixq_softmax_setting.fill_(grid.setting)
            self.softmax_grid = self.softmax_kind(self.softmax_bits, grid.setting)

    def read_softmax_grid(self) -> SoftmaxGrid:
        """Return the grid that the buffer tells, and the first one on the meta device, where there are no numbers."""
        settings = self.softmax_kind.settings(self.softmax_bits)
        if not settings:
            return self.softmax_kind(self.softmax_bits)
        buffer = self.mixq_softmax_setting
        return self.softmax_kind(self.softmax_bits, settings[0] if buffer.is_meta else int(buffer))

    def has_valid_softmax_grid(self) -> bool:
        """Return whether the setting is one of those that the kind of grid has."""
        settings = self.softmax_kind.settings(self.softmax_bits)
        return not settings or int(self.mixq_softmax_setting) in settings
