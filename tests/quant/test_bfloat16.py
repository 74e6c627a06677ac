# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch

from optimum_mixq.quant import bfloat16
from optimum_mixq.quant.bfloat16 import dtype_of_products


@pytest.mark.parametrize("helps", [True, False])
def test_products_of_float32_are_bfloat16_where_the_processor_multiplies_it(helps, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: helps, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert dtype_of_products(torch.ones(1)) == (torch.bfloat16 if helps else torch.float32)
    assert dtype_of_products(torch.ones(1, dtype=torch.float64)) == torch.float64


def test_a_torch_that_does_not_tell_multiplies_in_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert not bfloat16._has_bfloat16(torch.device("cpu"))
