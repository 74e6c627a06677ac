# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optimum_mixq.quant.bitpacking import int16_to_scale, pack_codes, packed_size, scale_to_int16, unpack_codes


def slow_pack(codes, bits):
    """One long integer, bit by bit."""
    number = sum(code << (position * bits) for position, code in enumerate(codes))
    return list(number.to_bytes(-(-len(codes) * bits // 8), "little"))


@given(st.data(), st.integers(2, 8))
def test_packing_is_one_stream_of_bits_and_comes_back(data, bits):
    codes = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=50))
    packed = pack_codes(torch.tensor(codes, dtype=torch.int64), bits)
    assert packed.tolist() == slow_pack(codes, bits)
    assert len(packed) == packed_size(len(codes), bits)
    assert unpack_codes(packed, bits, len(codes)).tolist() == codes


def test_codes_beyond_the_width_are_refused():
    with pytest.raises(ValueError, match=r"Expected codes in 0..7, found 0..8"):
        pack_codes(torch.tensor([0, 8]), 3)


def test_widths_beyond_two_to_eight_are_refused():
    with pytest.raises(ValueError, match="Expected a width of 2 to 8 bits, found 1"):
        pack_codes(torch.tensor([0]), 1)


def test_a_truncated_tensor_is_said():
    packed = pack_codes(torch.arange(16) % 8, 3)
    with pytest.raises(ValueError, match=r"Expected 6 bytes \(uint8\) for 16 codes of 3 bits, found 5"):
        unpack_codes(packed[:-1], 3, 16)


def test_scales_survive_as_integers():
    scale = torch.tensor([6e-8, 0.1, 1.0, 65504.0]).half().float()
    assert torch.equal(int16_to_scale(scale_to_int16(scale)), scale)
