# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import copy
import math

import pytest
import torch
from torch import nn

from optimum_mixq.quant.norms import RowLayerNorm, can_go_by_rows


def norm_and_rows(channels=13, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    norm = nn.LayerNorm(channels, eps=1e-6)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(channels, generator=generator))
        norm.bias.copy_(torch.randn(channels, generator=generator))
    return norm.to(dtype), (3 * torch.randn(2, 5, channels, generator=generator) + 4).to(dtype)


def slow_layer_norm(norm, row):
    mean = sum(row) / len(row)
    variance = sum((value - mean) ** 2 for value in row) / len(row)
    return [
        (value - mean) / math.sqrt(variance + norm.eps) * weight + bias
        for value, weight, bias in zip(row, norm.weight.tolist(), norm.bias.tolist(), strict=True)
    ]


def compiled(module, rows):
    torch.compiler.reset()
    with torch.no_grad():
        return torch.compile(module, backend="eager", fullgraph=True)(rows)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 0.05)]
)
def test_compiled_rows_are_normalised_as_the_equation_says(dtype, tolerance):
    norm, rows = norm_and_rows(dtype=dtype)
    found = compiled(RowLayerNorm.of(norm), rows)
    assert found.dtype == dtype
    for row, own in zip(rows.flatten(0, 1).tolist(), found.flatten(0, 1).tolist(), strict=True):
        assert own == pytest.approx(slow_layer_norm(norm, row), abs=tolerance)


def test_a_large_mean_costs_no_digits():
    norm, rows = norm_and_rows()
    rows = rows + 1000  # whose squares, in float32, would miss the variance of 9 by 0.06
    exact = copy.deepcopy(norm).double()(rows.double())
    torch.testing.assert_close(compiled(RowLayerNorm.of(norm), rows).double(), exact, rtol=0, atol=3e-4)


def test_eager_rows_are_torchs_own_to_the_bit():
    norm, rows = norm_and_rows()
    assert torch.equal(RowLayerNorm.of(norm)(rows), norm(rows))


def test_the_parameters_are_shared_and_go_back():
    norm, _ = norm_and_rows()
    norm.eval()
    by_rows = RowLayerNorm.of(norm)
    assert by_rows.weight is norm.weight and by_rows.bias is norm.bias and by_rows.eps == norm.eps
    assert by_rows.state_dict().keys() == norm.state_dict().keys() and not by_rows.training
    plain = copy.deepcopy(by_rows).to_plain()
    assert type(plain) is nn.LayerNorm and torch.equal(plain.weight, norm.weight)


def test_only_norms_of_rows_with_both_parameters_are_taken():
    assert can_go_by_rows(nn.LayerNorm(4))
    others = (nn.LayerNorm((4, 4)), nn.LayerNorm(4, elementwise_affine=False), nn.LayerNorm(4, bias=False))
    assert not any(can_go_by_rows(norm) for norm in (*others, nn.RMSNorm(4), RowLayerNorm(4)))
