# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import copy

import pytest
import torch
from conftest import DEVICE
from torch import nn

from optimum_mixq.quant.layers import QuantConv2d
from optimum_mixq.quant.packed_embedding import PackedConv2d
from optimum_mixq.stages.calibration.observers import RowObserver, minmax_grid, searched_weight_grid


def patch_embedding():
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 8, 4, 4)
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


def test_a_convolution_that_is_no_patch_embedding_is_refused():
    _, layer, _ = patch_embedding()
    with pytest.raises(ValueError, match="Expected a patch embedding"):
        QuantConv2d(nn.Conv2d(3, 8, 4, 2), layer.weight_grid, layer.weight_grid)
