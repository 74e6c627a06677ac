# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch

from optimum_mixq.export.attention import attention_of
from optimum_mixq.quant import attention as packed_attention
from optimum_mixq.quant.attention import AttentionQuantizer
from optimum_mixq.quant.grids import UniformGrid, fake_quantize, uniform_grid
from optimum_mixq.quant.softmax_grids import softmax_grid_names


HEADS, SIZE, TOKENS = 2, 6, 9


def operands(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, HEADS, TOKENS, SIZE, generator=generator) * 2 for _ in range(3)]


def quantizer(qk_bits, av_bits, by_channel=True, softmax="log-sqrt2"):
    made = AttentionQuantizer(HEADS, SIZE, qk_bits, av_bits, softmax=softmax)
    for name, values, bits in zip(("query", "key", "value"), operands(), (qk_bits, qk_bits, av_bits), strict=True):
        dimensions = (0, 2) if by_channel else (0, 2, 3)
        low, high = values.amin(dimensions, keepdim=True), values.amax(dimensions, keepdim=True)
        grid = uniform_grid(low, high, bits)
        shape = (HEADS, SIZE)
        scale, zero_point = (part[0, :, 0].expand(shape) for part in (grid.scale, grid.zero_point))
        made.set_grid(name, UniformGrid(scale, zero_point, bits))
    return made


def masks():
    mask = torch.zeros(1, 1, TOKENS, TOKENS)
    mask[..., :2] = -100.0
    return [None, mask]


@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("softmax", softmax_grid_names())
@pytest.mark.parametrize(("qk_bits", "av_bits"), [(8, 8), (4, 3), (2, 6)])
def test_logarithmic_attention_is_that_of_the_packed_model(qk_bits, av_bits, softmax, mask, monkeypatch):
    monkeypatch.setattr(packed_attention, "CPU_MULTIPLIES_BFLOAT16", False)
    made = quantizer(qk_bits, av_bits, softmax=softmax)
    exported = attention_of("logarithmic")(made)
    expected, found = made(*operands(), mask, 0.4), exported(*operands(), mask, 0.4)
    # A score that lies between two values may go to either.
    assert ((found - expected).abs() > 1e-4).float().mean() < 0.01


@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("by_channel", [True, False])
@pytest.mark.parametrize(("qk_bits", "av_bits"), [(8, 8), (4, 4), (2, 6)])
def test_integer_attention_is_softmax_of_the_rounded_operands(qk_bits, av_bits, by_channel, mask):
    made = quantizer(qk_bits, av_bits, by_channel)
    query, key, value = operands(1)
    key, value = fake_quantize(key, made.grid("key", qk_bits)), fake_quantize(value, made.grid("value", av_bits))
    if qk_bits < 4:  # else int8 is as fine as its grid or finer
        query = fake_quantize(query, made.grid("query", qk_bits))
    scores = query @ key.transpose(-1, -2) * 0.4 + (0 if mask is None else mask)
    expected = (scores.softmax(-1) @ value).transpose(1, 2)
    found = attention_of("integer")(made)(*operands(1), mask, 0.4)
    assert (found - expected).abs().mean() < 0.02 * expected.std()


@pytest.mark.parametrize("softmax", softmax_grid_names())
@pytest.mark.parametrize("av_bits", [2, 3])
def test_with_few_bits_integer_attention_is_on_the_models_own_grid(av_bits, softmax):
    made = quantizer(3, av_bits, softmax=softmax)
    own, found = (attention_of(name)(made)(*operands(1), None, 0.4) for name in ("logarithmic", "integer"))
    # The grid's values are rounded to 255 steps, and single scores to another value.
    assert (own - found).abs().mean() < 0.03 * own.std()


def test_rows_of_integer_attention_sum_to_one():
    made = quantizer(8, 8)
    query, key, _ = operands(1)
    constant = torch.full((3, HEADS, TOKENS, SIZE), 0.7)
    exported = attention_of("integer")(made)
    expected = fake_quantize(constant, made.grid("value", 8)).transpose(1, 2)
    torch.testing.assert_close(exported(query, key, constant, None, 0.4), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", ["integer", "logarithmic"])
def test_layers_around_attention_may_do_what_is_done_to_each_channel(name, bits):
    made = quantizer(bits, bits)
    plain, folded = attention_of(name)(made), attention_of(name)(made)
    folded.folded_operands = folded.folded_output = True
    ready = [
        folded.operand_affine(operand).apply(values)
        for operand, values in zip(("query", "key", "value"), operands(2), strict=True)
    ]
    output = folded(*ready, None, 0.4).transpose(1, 2)  # (B, heads, T, head size)
    output = folded.output_affine().apply(output).transpose(1, 2)
    torch.testing.assert_close(output, plain(*operands(2), None, 0.4))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_integers_of_all_operands_fit_int8(bits):
    made = quantizer(bits, bits)
    exported = attention_of("integer")(made)
    for operand in ("query", "key", "value"):
        grid = made.grid(operand, bits)
        low, high = (0 - grid.zero_point) * grid.scale, (grid.largest_code - grid.zero_point) * grid.scale
        if operand == "query" and bits < 4:
            ends = [(code - exported.query_zero_point) * exported.query_factor for code in (0, grid.largest_code)]
        else:
            ends = [exported.operand_affine(operand).apply(end) for end in (low, high)]
        assert ends[0].min() >= -128.01 and ends[1].max() <= 127.01


def test_a_name_that_nobody_registered_is_told_the_others():
    with pytest.raises(ValueError, match=r"Expected attention to be 'integer' or 'logarithmic', found 'fast'"):
        attention_of("fast")
