# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import math

import pytest
import torch

from optimum_mixq.quant.codes import CACHED_NUMBERS, quantize_columns


def slow_codes(values, multiplier, offset, bits):
    return [
        [min(max(math.floor(v * m + o), 0), 2**bits - 1) for v, m, o in zip(row, multiplier, offset, strict=True)]
        for row in values
    ]


def problem(rows, channels=24):
    generator = torch.Generator().manual_seed(0)
    # Sixteenths: products and sums are exact, so that floor has one answer.
    values = torch.randint(-400, 4000, (rows, channels), generator=generator) / 16
    return values, torch.randint(1, 4, (channels,), generator=generator) / 2, torch.full((channels,), 3.5)


@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_are_the_clamped_floor(bits):
    values, multiplier, offset = problem(5)
    codes = quantize_columns(values, multiplier, offset, bits)
    assert codes.dtype == torch.uint8
    assert codes.tolist() == slow_codes(values.tolist(), multiplier.tolist(), offset.tolist(), bits)
    assert codes.min() == 0 and codes.max() == 2**bits - 1


def test_codes_of_many_rows_are_those_of_each_piece():
    values, multiplier, offset = problem(2 * CACHED_NUMBERS // 24 + 7)
    whole = quantize_columns(values, multiplier, offset, 6)
    pieces = torch.cat([quantize_columns(part, multiplier, offset, 6) for part in values.split(1000)])
    assert torch.equal(whole, pieces)


def test_compiled_code_gives_the_same_codes():
    values, multiplier, offset = problem(37)
    compiled = torch.compile(lambda rows: [quantize_columns(rows, multiplier, offset, bits) for bits in (4, 7, 8)])
    for bits, codes in zip((4, 7, 8), compiled(values), strict=True):
        assert torch.equal(codes, quantize_columns(values, multiplier, offset, bits))
