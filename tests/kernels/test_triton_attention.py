# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Attention in one Triton kernel gives what torch's operations do: on a GPU, or in Triton's interpreter."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from conftest import DEVICE, make_model, random_pixels
from cuda_stand_in import Unwaiting
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_mixq import BitPlan, MixQConfig
from optimum_mixq.kernels import TritonAttention, TritonKernel
from optimum_mixq.pipeline import quantize_model
from optimum_mixq.quant import attention as quant_attention
from optimum_mixq.quant.attention import AttentionQuantizer
from optimum_mixq.quant.grids import UniformGrid
from optimum_mixq.quant.softmax_grids import softmax_grid_names
from optimum_mixq.quant.softmax_grids.logarithmic import LogGrid


pytest.importorskip("triton", reason="Triton is not installed")
from triton.runtime import interpreter

from optimum_mixq.kernels.triton import attention


OPERANDS = ("query", "key", "value")


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Let torch's operations multiply float32, and the kernel run here."""
    monkeypatch.setattr(quant_attention, "matmul_dtype", lambda device: torch.float32)
    monkeypatch.setattr(TritonAttention, "supports", classmethod(lambda own, device: device.type == DEVICE.type))


def quantizer(heads, size, bits, by_head=False, softmax="log-sqrt2"):
    """Return attention with random grids: for each channel, or for each head as the folded arithmetic has them."""
    generator = torch.Generator().manual_seed(bits)
    made = AttentionQuantizer(heads, size, bits, bits, DEVICE, softmax).eval()
    for name in OPERANDS:
        shape = (heads, 1) if by_head else (heads, size)
        scale = (4 * (0.5 + torch.rand(shape, generator=generator)) / 2**bits).half().float()
        zero_point = (2**bits * torch.rand(shape, generator=generator)).floor()
        made.set_grid(name, UniformGrid(scale.expand(heads, size), zero_point.expand(heads, size), bits))
    return made


def random_operands(images, heads, queries, keys, size, dtype=torch.float32):
    """Return query, key and value (B, heads, T, D) as layers put them out: parts of (B, T, heads * D)."""
    generator = torch.Generator().manual_seed(0)
    rows = [
        torch.randn(images, tokens, heads, size, generator=generator).to(DEVICE, dtype)
        for tokens in (queries, keys, keys)
    ]
    return [each.transpose(1, 2) for each in rows]


def random_mask(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)


def without_kernel(made):
    plain = copy.deepcopy(made)
    plain._kernel = None
    return plain


@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize("bits", range(2, 9))
def test_every_width_gives_what_torchs_operations_do(bits, by_head):
    made = quantizer(2, 12, bits, by_head)
    operands = random_operands(2, 2, 19, 19, 12)
    for mask in (None, random_mask(1, 2, 19, 19)):
        found, expected = made(*operands, mask, 0.3), without_kernel(made)(*operands, mask, 0.3)
        assert found.shape == (2, 19, 2, 12) and found.is_contiguous()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("softmax", softmax_grid_names())
def test_logarithmic_grids_of_any_base_are_served_and_others_left_to_torch(softmax):
    made = quantizer(2, 8, 4, softmax=softmax)
    operands = random_operands(2, 2, 9, 9, 8)
    for setting in made.softmax_kind.settings(4)[3:6] or (0,):
        made.set_softmax_grid(made.softmax_kind(4, setting))
        assert (made._kernel is not None) == issubclass(made.softmax_kind, LogGrid)
        if made._kernel is not None:
            expected = without_kernel(made)(*operands, None, 0.4)
            torch.testing.assert_close(made(*operands, None, 0.4), expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=12, deadline=None)
@given(
    images=st.integers(0, 2), heads=st.integers(1, 3), queries=st.integers(1, 20), keys=st.integers(1, 35),
    size=st.integers(1, 20),
)  # fmt: skip
def test_any_number_of_tokens_and_channels_is_served(images, heads, queries, keys, size):
    made, operands = quantizer(heads, size, 4), random_operands(images, heads, queries, keys, size)
    found, expected = made(*operands, None, 0.3), without_kernel(made)(*operands, None, 0.3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def rounded_as_here(values, dtype):
    """Return float64 values as the kernel rounds them; Triton's interpreter rounds bfloat16 towards zero (3.7)."""
    if dtype != torch.bfloat16 or DEVICE.type == "cuda":
        return values.float().to(dtype).double()
    return (values.float().view(torch.int32) & ~0xFFFF).view(torch.float32).double()


def slow_attention(made, operands, mask, scaling, dtype):
    """Return the equation of `AttentionGrids` in float64, with what is multiplied rounded to a dtype."""
    grids = made._kernel.grids
    integers = []
    for values, scale, zero_point, bits in zip(
        operands, grids.scale, grids.zero_point, (grids.qk_bits, grids.qk_bits, grids.av_bits), strict=True
    ):
        codes = torch.floor(values.double() / scale[:, None].double() + zero_point[:, None] + 0.5)
        integers.append(codes.clamp(0, 2**bits - 1) - zero_point[:, None])
    steps = grids.steps / math.log(2)
    factor = (grids.scale[0] * grids.scale[1] * (scaling * steps))[:, None]
    query = rounded_as_here((integers[0].float() * factor).double(), dtype)
    scores = query @ integers[1].transpose(-1, -2) + mask.double() * steps
    codes = torch.floor(scores.amax(-1, keepdim=True) - scores + 0.5)
    powers = torch.where(codes < 2**grids.av_bits - 1, 2 ** (-codes / grids.steps), 0.0)
    sums = rounded_as_here(powers, dtype) @ integers[2]
    return (sums / powers.sum(-1, keepdim=True) * grids.scale[2][:, None].double()).transpose(1, 2)


def multiply_bfloat16(monkeypatch):
    """Triton's interpreter multiplies bfloat16 as the integers that hold its digits (3.7): let it see numbers."""
    create_dot = interpreter.InterpreterBuilder.create_dot

    def as_numbers(handle):
        if handle.dtype.scalar != interpreter.tl.bfloat16:
            return handle
        numbers = (handle.data.astype(np.uint32) << 16).view(np.float32)
        return interpreter.TensorHandle(numbers, interpreter.tl.float32)

    monkeypatch.setattr(
        interpreter.InterpreterBuilder,
        "create_dot",
        lambda own, left, right, *rest: create_dot(own, as_numbers(left), as_numbers(right), *rest),
    )


@pytest.mark.parametrize("bits", [2, 5, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_products_of_every_dtype_are_those_of_the_equation(dtype, bits, monkeypatch):
    multiply_bfloat16(monkeypatch)
    made, operands, mask = quantizer(2, 12, bits), random_operands(1, 2, 19, 19, 12), random_mask(1, 2, 19, 19)
    found = made._kernel(*operands, mask, 0.3, dtype)
    expected = slow_attention(made, operands, mask, 0.3, dtype)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_read_and_put_out(dtype):
    made, operands = quantizer(2, 12, 4), random_operands(1, 2, 19, 19, 12, dtype)
    mask = random_mask(1, 2, 19, 19).to(dtype)
    found, expected = made(*operands, mask, 0.3), without_kernel(made)(*operands, mask, 0.3)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


@pytest.mark.filterwarnings("ignore:.*overflow encountered in multiply")  # which gives an infinity, as on a GPU
def test_masks_of_windows_broadcast():
    made, operands = quantizer(2, 12, 4), random_operands(4, 2, 9, 9, 12)
    windows = torch.where(random_mask(4, 1, 9, 9) > 0.5, -100.0, 0.0)
    closed = torch.zeros(9, 9, device=DEVICE)
    closed[:, 4:] = torch.finfo(torch.float32).min
    masks = (windows, windows + random_mask(1, 2, 9, 9), closed, random_mask(1, 2, 9, 9).transpose(-1, -2))
    for mask in masks:
        found, expected = made(*operands, mask, 0.3), without_kernel(made)(*operands, mask, 0.3)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_operands_may_lie_in_any_order():
    made, operands = quantizer(2, 12, 4), random_operands(2, 2, 19, 19, 12)
    expected = made(*operands, None, 0.3)
    joint = torch.cat([each.transpose(1, 2).flatten(2) for each in operands], -1)  # (B, T, 3 * heads * D)
    parts = [each.unflatten(-1, (2, 12)).transpose(1, 2) for each in joint.split(24, -1)]
    turned = [each.transpose(-1, -2).contiguous().transpose(-1, -2) for each in operands]
    assert torch.equal(made(*parts, None, 0.3), expected) and torch.equal(made(*turned, None, 0.3), expected)


def test_a_launch_asks_for_no_number():
    made, operands, mask = quantizer(2, 12, 4), random_operands(1, 2, 19, 19, 12), random_mask(1, 2, 19, 19)
    expected = made(*operands, mask, 0.3)
    with Unwaiting():
        assert made(*operands, mask, 0.3).shape == expected.shape


def test_what_the_kernel_cannot_compute_is_left_to_torch(monkeypatch):
    made, operands, mask = quantizer(2, 12, 4), random_operands(1, 2, 5, 5, 12), random_mask(1, 2, 5, 5)
    expected = without_kernel(made)(*operands, mask, 0.3)
    served = made._kernel.serves
    assert served(*operands, mask) and served(*operands, None)
    assert not served(*operands, mask.double()) and not served(*operands, mask.to("meta"))
    wide = torch.zeros(1, 2, 5, 300, device=DEVICE)
    assert not served(wide, wide, wide, None)
    bias = mask.clone().requires_grad_()
    assert not served(*operands, bias)
    with torch.no_grad():
        assert served(*operands, bias)
    monkeypatch.setattr(TritonAttention, "attend", None)
    assert torch.equal(made(*operands, mask.double(), 0.3), expected)
    query = operands[0].clone().requires_grad_()
    made(query, *operands[1:], mask, 0.3, dropout=0.5).sum().backward()
    assert query.grad.abs().sum() > 0
    assert quantizer_without_bits()(*operands, mask, 0.3).shape == expected.shape


def quantizer_without_bits():
    return AttentionQuantizer(2, 12, None, 4, DEVICE).eval()


def test_only_tiles_that_fit_the_queries_are_tried():
    tiles = attention.configurations(attention.TILES)

    def rows_of(queries):
        return {tile.kwargs["QUERIES"] for tile in attention.tiles_for(tiles, {"queries_up_to": queries})}

    assert rows_of(1) == {16} and rows_of(64) == {16, 32, 64} and rows_of(256) == {16, 32, 64, 128}


def test_attention_is_computed_where_products_are(monkeypatch):
    monkeypatch.undo()
    for there in (True, False):
        monkeypatch.setattr(TritonKernel, "supports", classmethod(lambda own, device, bits, there=there: there))
        assert TritonAttention.supports(torch.device("cuda")) is there
    monkeypatch.setattr(TritonKernel, "supports", classmethod(lambda own, device, bits: False))
    assert quantizer(2, 12, 4)._kernel is None


def packed(name):
    model = make_model(name)
    config = MixQConfig(bits=4, calibration_samples=4)
    return quantize_model(model, BitPlan.uniform(model, 4), [random_pixels(model, 4)], config)


def kernels_of(model):
    return [module._kernel for module in model.modules() if isinstance(module, AttentionQuantizer)]


@torch.no_grad()
def logits(model, pixels):
    return model(pixel_values=pixels)[0]


@pytest.mark.parametrize("name", ["vit", "swin", "beit", "segformer"])
def test_whole_models_give_the_same_logits(name, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(TritonAttention, "supports", classmethod(lambda own, device: False))
        model = packed(name)
    pixels = random_pixels(model, 1, seed=7)
    assert set(kernels_of(model)) == {None}
    expected = logits(model, pixels)
    model.to(DEVICE)  # chooses anew
    calls, attend = [], TritonAttention.attend
    monkeypatch.setattr(TritonAttention, "attend", lambda *given: calls.append(given) or attend(*given))
    found = logits(model, pixels)
    assert len(calls) == len(kernels_of(model)) > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*:UserWarning:torch")
def test_an_exported_program_attends_by_torchs_operations():
    made, operands = quantizer(2, 12, 4), random_operands(1, 2, 5, 5, 12)
    program = torch.export.export(made, (*operands, None, 0.3))
    assert not any("mixq.attention" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(*operands, None, 0.3), made(*operands, None, 0.3))


def test_copies_have_kernels_of_their_own():
    made, operands = quantizer(2, 12, 4), random_operands(1, 2, 5, 5, 12)
    expected = made(*operands, None, 0.3)
    for twin in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert twin._kernel.handle != made._kernel.handle
        assert torch.equal(twin(*operands, None, 0.3), expected)
    assert made.to(torch.device("meta"))._kernel is None
