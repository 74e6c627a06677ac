# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import copy

import pytest
import torch
from conftest import DEVICE
from torch import nn

from optimum_mixq.quant.layers import QuantConv2d
from optimum_mixq.quant.packed_embedding import PackedConv2d
from optimum_mixq.stages.calibration.observers import RowObserver, minmax_grid, searched_weight_grid


def patch_embedding(bias=True):
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 8, 4, 4, bias=bias)
    pixels = torch.randn(2, 3, 8, 8)
    observer = RowObserver("stem")
    observer.observe(pixels.permute(0, 2, 3, 1))
    layer = QuantConv2d(stem, searched_weight_grid(stem.weight.flatten(1), 8), minmax_grid(observer.result(), 8))
    return stem.to(DEVICE), layer.eval().to(DEVICE), pixels.to(DEVICE)


def test_the_packed_patch_embedding_gives_the_same_numbers_to_the_bit():
    stem, layer, pixels = patch_embedding()
    packed = PackedConv2d.from_quant(layer)
    assert torch.equal(packed(pixels), layer(pixels))
    assert (packed(pixels) - stem(pixels)).abs().max() < 0.05
    assert torch.equal(copy.deepcopy(packed)(pixels), layer(pixels))


def test_the_packed_patch_embedding_shows_the_models_dtype():
    packed = PackedConv2d.from_quant(patch_embedding()[1])
    assert packed.weight.dtype == torch.float32
    assert packed.to(torch.bfloat16).weight.dtype == torch.bfloat16


@torch.no_grad()
def test_a_patch_embedding_without_a_bias_has_zeros_for_it_and_loses_them_unless_training_changed_them():
    stem, layer, pixels = patch_embedding(bias=False)
    packed = PackedConv2d.from_quant(layer)
    assert torch.equal(packed(pixels), layer(pixels)) and (packed(pixels) - stem(pixels)).abs().max() < 0.05
    assert not packed.bias.any() and packed.to_float().bias is None
    packed.bias[2] = 1.0
    assert torch.equal(packed.to_float().bias, packed.bias)
    assert PackedConv2d.from_quant(patch_embedding()[1]).to_float().bias is not None


def test_a_convolution_that_is_no_patch_embedding_is_refused():
    _, layer, _ = patch_embedding()
    with pytest.raises(ValueError, match="Expected a patch embedding"):
        QuantConv2d(nn.Conv2d(3, 8, 4, 2), layer.weight_grid, layer.weight_grid)
