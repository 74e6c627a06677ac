# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from conftest import BUILDERS, make_model, random_pixels
from torch import nn

from optimum_mixq.architectures.describe import describe
from optimum_mixq.quant.grids import UniformGrid, fake_quantize, quantize
from optimum_mixq.stages.calibration.observers import RowObserver, minmax_grid
from optimum_mixq.stages.calibration.reparameterization import clip_grid, fold, tensor_grid
from optimum_mixq.tasks import run_model


def norm_and_readers(bias=True):
    torch.manual_seed(0)
    norm = nn.LayerNorm(16).double()
    readers = [nn.Linear(16, 8, bias=bias).double() for _ in range(3)]
    with torch.no_grad():
        norm.weight.mul_(torch.logspace(-1, 1, 16, dtype=torch.float64))
        norm.bias.add_(torch.randn(16, dtype=torch.float64))
    rows = torch.randn(200, 16, dtype=torch.float64)
    observer = RowObserver("norm")
    observer.observe(norm(rows))
    grid = minmax_grid(observer.result(), 4)
    double = UniformGrid(grid.scale.double(), grid.zero_point.double(), 4)
    return norm, readers, rows, double


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("fold_shift", [True, False])
@torch.no_grad()
def test_folding_is_exact_in_float64(bias, fold_shift):
    norm, readers, rows, grid = norm_and_readers(bias)
    before = [reader(norm(rows)) for reader in readers]
    fold(norm, readers, grid, fold_shift)
    for reader, expected in zip(readers, before, strict=True):
        assert torch.allclose(reader(norm(rows)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fold_shift", [True, False])
@torch.no_grad()
def test_folded_inputs_get_the_codes_that_their_channels_had(fold_shift):
    norm, readers, rows, grid = norm_and_readers()
    before = quantize(norm(rows), grid)
    folded = fold(norm, readers, grid, fold_shift)
    assert folded.scale.numel() == 1
    assert torch.equal(quantize(norm(rows), folded), before)


@pytest.mark.parametrize("name", sorted(BUILDERS))
@torch.no_grad()
def test_folding_a_whole_model_leaves_its_logits_alone_padding_included(name):
    model = make_model(name).double()
    pixels = random_pixels(model).double()
    before = run_model(model, pixels)
    for entry in describe(model).norms:
        norm = model.get_submodule(entry.norm)
        size = norm.weight.numel()
        grid = UniformGrid(0.1 + torch.rand(size).double(), torch.randint(0, 16, (size,)).double(), 4)
        fold(norm, [model.get_submodule(reader) for reader in entry.readers], grid, entry.shift_foldable)
    assert torch.allclose(run_model(model, pixels), before, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_folding_a_shift_through_padding_would_be_wrong():
    model = make_model("padded_swin").double()
    pixels = random_pixels(model).double()
    before = run_model(model, pixels)
    entry = next(entry for entry in describe(model).norms if not entry.shift_foldable)
    norm = model.get_submodule(entry.norm)
    size = norm.weight.numel()
    grid = UniformGrid(torch.full((size,), 0.1).double(), torch.randint(0, 16, (size,)).double(), 4)
    fold(norm, [model.get_submodule(reader) for reader in entry.readers], grid, fold_shift=True)
    assert (run_model(model, pixels) - before).abs().max() > 1e-4


def test_clipping_bounds_the_scales_and_leaves_inner_channels_alone():
    scale = torch.ones(50).half().float()
    scale[3] = 100.0
    grid = UniformGrid(scale, torch.full((50,), 8.0), 4)
    clipped = clip_grid(grid, 2.0)
    assert clipped.scale[3] < 40 and torch.equal(clipped.scale[4:], scale[4:])
    assert clip_grid(grid, None) is grid


def test_a_clipped_channel_keeps_the_middle_of_its_range():
    scale = torch.linspace(1.0, 1.5, 50).half().float()
    scale[3] = 4.0
    grid = UniformGrid(scale, torch.full((50,), 8.0), 4)
    clipped = clip_grid(grid, 3.0)
    middle = (grid.largest_code / 2 - grid.zero_point) * grid.scale
    moved = (grid.largest_code / 2 - clipped.zero_point) * clipped.scale
    assert abs(moved[3] - middle[3]) <= clipped.scale[3]
    assert fake_quantize(torch.full((50,), 1e4), clipped)[3] < fake_quantize(torch.full((50,), 1e4), grid)[3]


def test_the_tensor_grid_has_the_mean_scale_and_a_whole_zero_point():
    grid = tensor_grid(UniformGrid(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 5.0]), 4))
    assert grid.scale.tolist() == [2.0] and grid.zero_point.tolist() == [4.0]
