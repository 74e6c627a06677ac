# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import math

import pytest
import torch

from optimum_mixq.kernels import AttentionKernel, register_attention_kernel, registry
from optimum_mixq.quant.attention import AttentionQuantizer
from optimum_mixq.quant.grids import UniformGrid, dequantize, fake_quantize, quantize
from optimum_mixq.quant.softmax_grids import softmax_grid_names


def operands(heads=2, tokens=5, size=4):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, heads, tokens, size, generator=generator) for _ in range(3)]


def quantizer(qk_bits=4, av_bits=4, heads=2, size=4, softmax="log-sqrt2"):
    attention = AttentionQuantizer(heads, size, qk_bits, av_bits, softmax=softmax).eval()
    for number, name in enumerate(("query", "key", "value")):
        scale = (0.2 + 0.05 * torch.arange(heads * size).view(heads, size) + 0.01 * number).half().float()
        attention.set_grid(name, UniformGrid(scale, torch.full((heads, size), 7.0 + number), 4))
    return attention


def slow_softmax_row(scores, bits):
    steps = {6: 4, 7: 8, 8: 16}.get(bits, 2)
    codes = [math.floor(-steps * math.log2(math.exp(score - max(scores))) + 0.5) for score in scores]
    powers = [0.0 if code >= 2**bits - 1 else 2 ** (-code / steps) for code in codes]
    return [power / sum(powers) for power in powers]


def test_attention_is_that_of_the_equation_element_by_element(monkeypatch):
    monkeypatch.setattr("optimum_mixq.quant.attention.matmul_dtype", lambda _: torch.float32)
    query, key, value = operands()
    attention = quantizer()
    mask = torch.randn(1, 2, 5, 5)
    output = attention(query, key, value, mask, scaling=0.5)
    rounded = [
        fake_quantize(operand, attention.grid(name, 4))
        for name, operand in zip(("query", "key", "value"), (query, key, value), strict=True)
    ]
    for image in range(3):
        for head in range(2):
            for token in range(5):
                scores = [
                    float(rounded[0][image, head, token] @ rounded[1][image, head, other] * 0.5)
                    + float(mask[0, head, token, other])
                    for other in range(5)
                ]
                row = slow_softmax_row(scores, 4)
                expected = sum(share * rounded[2][image, head, other] for other, share in enumerate(row))
                assert torch.allclose(output[image, token, head], expected, atol=1e-5)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_bfloat16_products_change_little(monkeypatch, bits):
    outputs = []
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr("optimum_mixq.quant.attention.matmul_dtype", lambda _, dtype=dtype: dtype)
        outputs.append(quantizer(bits, bits)(*operands(tokens=50), None, 0.5))
    assert (outputs[0] - outputs[1]).norm() < 0.05 * outputs[0].norm()


@pytest.mark.parametrize("softmax", softmax_grid_names())
def test_with_gradients_attention_gives_the_same_values(softmax, monkeypatch):
    monkeypatch.setattr("optimum_mixq.quant.attention.matmul_dtype", lambda _: torch.float32)
    tensors, mask = operands(), torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(1))
    attention = quantizer(softmax=softmax)
    without = attention(*tensors, mask, 0.5)
    found = attention(*[tensor.requires_grad_() for tensor in tensors], mask, 0.5)
    # A score that lies between two values may go to either.
    assert torch.isclose(found, without, atol=1e-6).float().mean() > 0.95


def test_bits_of_none_leave_attention_as_it_is():
    query, key, value = operands()
    output = quantizer(None, None)(query, key, value, None, 0.5)
    plain = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=0.5).transpose(1, 2)
    assert torch.allclose(output, plain, atol=1e-6)


def test_grids_are_per_head_and_channel():
    attention = quantizer()
    grid = attention.grid("value", 4)
    value = operands()[2]
    codes = quantize(value[:, 1, :, 2], UniformGrid(grid.scale[1, 0, 2], grid.zero_point[1, 0, 2], 4))
    alone = dequantize(codes, UniformGrid(grid.scale[1, 0, 2], grid.zero_point[1, 0, 2], 4))
    assert torch.equal(fake_quantize(value, grid)[:, 1, :, 2], alone)


def test_gradients_reach_query_key_and_value():
    tensors = [tensor.requires_grad_() for tensor in operands()]
    output = quantizer()(*tensors, None, 0.5)
    (output * torch.arange(4)).sum().backward()
    assert all(tensor.grad.abs().sum() > 0 for tensor in tensors)


def test_casting_leaves_the_grids_alone():
    attention = quantizer()
    before = attention.grid("key", 4).scale.clone()
    assert torch.equal(attention.to(torch.bfloat16).grid("key", 4).scale, before)


class Ones(AttentionKernel):
    """Puts out ones, for float32 alone."""

    @classmethod
    def supports(cls, device):
        return device.type == "cpu"

    def serves(self, query, key, value, mask):
        return query.dtype == torch.float32

    def attend(self, query, key, value, mask, scaling, dtype):
        return torch.ones_like(query).transpose(1, 2)


def test_a_kernel_from_outside_attends_where_it_serves(monkeypatch):
    tensors = operands()
    expected = quantizer()(*tensors, None, 0.5)
    monkeypatch.setattr(registry, "ATTENTION_KERNELS", list(registry.ATTENTION_KERNELS))
    register_attention_kernel(Ones)
    attention = quantizer()
    assert torch.equal(attention(*tensors, None, 0.5), torch.ones_like(expected))
    doubled = attention(*[tensor.double() for tensor in tensors], None, 0.5)
    assert torch.allclose(doubled.float(), expected, atol=1e-6)
    assert quantizer(None, 4)._kernel is None  # bits are missing
    attention.to("meta")
    assert attention._kernel is None
