# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Both engines round softmax to every grid as PyTorch does."""

import numpy as np
import pytest
import torch
from torch import nn

from optimum_mixq.export.targets import TARGETS
from optimum_mixq.export.tracing import trace_with_torch
from optimum_mixq.quant.softmax_grids import softmax_grid_names, softmax_grid_of


GRIDS = {
    f"{kind.name}, {bits} bits": kind(bits, (kind.settings(bits) or (0,))[-1])
    for kind in map(softmax_grid_of, softmax_grid_names())
    for bits in (2, 4, 8)
}


class Rounded(nn.Module):
    def forward(self, pixel_values):
        return {name: grid.round(pixel_values * grid.score_factor) for name, grid in GRIDS.items()}


def draw_scores():
    return 4 * torch.randn(6, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.filterwarnings("ignore")  # of the exporter about itself, as `trace` does it (torch 2.13)
def test_engines_round_to_every_grid(tmp_path):
    program, expected = trace_with_torch(Rounded(), draw_scores()), Rounded()(draw_scores())
    for target in TARGETS.values():
        (tmp_path / target.name).mkdir()
        target.write(program, tmp_path / target.name)
        found = target.load(tmp_path / target.name).run(draw_scores().numpy())
        assert set(found) == set(expected) == set(GRIDS)
        for name, values in found.items():
            # A score that lies between two values may go to either.
            assert np.isclose(values, expected[name].numpy(), rtol=1e-4, atol=1e-6).mean() > 0.99, (name, target.name)
