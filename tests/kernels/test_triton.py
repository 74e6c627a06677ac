# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Triton's kernels give what the reference does: on a GPU, or on a CPU in Triton's interpreter."""

from types import SimpleNamespace

import pytest
import torch
from conftest import DEVICE
from cuda_stand_in import Unwaiting
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_mixq.kernels import IntegerProduct, IntMMKernel, ReferenceKernel, TritonKernel, WeightCodes, choose_kernel
from optimum_mixq.kernels.contract import Rounding
from optimum_mixq.kernels.triton import kernel as triton_kernel
from optimum_mixq.kernels.triton.devices import device_of
from optimum_mixq.quant.arithmetics import arithmetic_of
from optimum_mixq.quant.codes import quantize_columns
from optimum_mixq.quant.grids import UniformGrid


pytest.importorskip("triton", reason="Triton is not installed")
from optimum_mixq.kernels.triton import linear, norm


def product(outputs, inputs, bits, arithmetic, seed=0):
    """Return the product of a random layer, its operand made as the arithmetic makes it."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.rand(shape, generator=generator)

    codes = torch.randint(2**bits, (outputs, inputs), generator=generator, dtype=torch.uint8)
    zero_point = torch.full((outputs, 1), 128.0) if bits == 8 else (random(outputs, 1) * 2**bits).floor()
    grid, input_scale = UniformGrid(random(outputs, 1) / 1000 + 1e-4, zero_point, bits), random(inputs) + 0.1
    own = arithmetic_of(arithmetic).of_layer(bits)
    operand, scale = own.operand(codes, grid, input_scale)
    held = own.weight_codes(codes, grid, input_scale)
    held = WeightCodes(
        *(_to_device(each) for each in (held.codes, held.scale, held.zero_point, held.input_scale)), bits
    )
    bias = random(outputs) * 4 - 2
    return IntegerProduct(*map(_to_device, (operand.to(torch.int8), scale[:, 0], bias)), held)


def _to_device(values):
    return None if values is None else values.to(DEVICE)


def random_codes(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).to(DEVICE)


@pytest.mark.parametrize("arithmetic", ["folded", "column"])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_every_width_gives_the_reference_to_the_bit(bits, arithmetic):
    own = product(18, 70, bits, arithmetic)
    kernel, codes = TritonKernel(own), random_codes(2, 9, 70)
    assert torch.equal(kernel(codes), ReferenceKernel(own)(codes))
    assert torch.equal(kernel(codes, torch.float16), ReferenceKernel(own)(codes, torch.float16))
    assert torch.equal(kernel.operand(), own.operand)


@settings(max_examples=12, deadline=None)
@given(rows=st.integers(0, 20), outputs=st.integers(1, 20), inputs=st.integers(1, 80), bits=st.sampled_from([2, 4, 8]))
def test_products_of_any_size_give_the_reference_to_the_bit(rows, outputs, inputs, bits):
    own, codes = product(outputs, inputs, bits, "column"), random_codes(rows, inputs)
    assert torch.equal(TritonKernel(own)(codes), ReferenceKernel(own)(codes))


@pytest.mark.parametrize("arithmetic", ["folded", "column"])
@pytest.mark.parametrize("bits", [2, 4])
def test_with_many_rows_the_operand_is_unpacked_first(bits, arithmetic, monkeypatch):
    own = product(5, 40, bits, arithmetic)
    kernel, codes, unpacked = TritonKernel(own), random_codes(17, 40), []
    unpack = linear.unpack
    monkeypatch.setattr(linear, "unpack", lambda weight, scale: unpacked.append(unpack(weight, scale)) or unpacked[-1])
    inside = kernel(codes)
    assert unpacked == []
    monkeypatch.setattr(linear, "ROWS_IN_REGISTERS", (16, 16))
    assert torch.equal(kernel(codes), inside)
    assert torch.equal(unpacked[0].octets[:, :40], own.operand)


def test_bfloat16_is_the_reference_up_to_its_last_digit():
    own, codes = product(18, 70, 4, "column"), random_codes(5, 70)
    # Triton's interpreter rounds bfloat16 towards zero (3.7).
    found, expected = TritonKernel(own)(codes, torch.bfloat16), ReferenceKernel(own)(codes, torch.bfloat16)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=0)


def test_gelu_is_the_exact_one():
    own, codes = product(18, 70, 4, "column"), random_codes(20, 70)
    values = ReferenceKernel(own)(codes).double()
    expected = 0.5 * values * (1 + torch.erf(values / 2**0.5))
    assert values.min() < -1 and values.max() > 1
    torch.testing.assert_close(
        TritonKernel(own)(codes, torch.float32, "gelu").double(), expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_codes_that_it_puts_out_are_those_of_its_numbers(bits, activation):
    own, codes = product(18, 70, 4, "column"), random_codes(20, 70)
    kernel = TritonKernel(own)
    values = kernel(codes, torch.float32, activation)
    low, high = values.aminmax(dim=0)
    multiplier = 1.2 * 2**bits / (high - low).clamp(min=1e-3)  # so that some are clamped
    rounding = Rounding(multiplier, -low * multiplier, bits)
    expected = quantize_columns(values, multiplier, rounding.offset, bits)
    found = kernel.to_codes(codes, rounding, activation)
    assert found.dtype == torch.uint8 and found.shape == (20, 18)
    assert len(expected.unique()) > 2 and expected.max() == 2**bits - 1
    # `quantize_columns` may fuse its product and sum, which moves what lies on an edge.
    assert (found.int() - expected.int()).abs().max() <= 1 and (found != expected).float().mean() < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("columns", [7, 24, 100])
def test_a_norm_puts_out_the_codes_of_its_numbers(columns, dtype):
    generator = torch.Generator().manual_seed(0)
    values = (3 * torch.randn(2, 5, columns, generator=generator) + 1).to(DEVICE, dtype)
    weight, bias = (torch.randn(columns, generator=generator).to(DEVICE, dtype) for _ in range(2))
    rounding = Rounding(torch.full((columns,), 3.0, device=DEVICE), torch.full((columns,), 8.5, device=DEVICE), 4)
    exact = torch.nn.functional.layer_norm(values.double(), (columns,), weight.double(), bias.double(), 1e-5)
    expected = (exact * rounding.multiplier + rounding.offset).floor().clamp(0, 15)
    found = norm.normalize_to_codes(values, weight, bias, 1e-5, rounding)
    assert found.dtype == torch.uint8 and found.shape == values.shape
    assert torch.equal(found.double(), expected) and len(found.unique()) > 3
    assert norm.normalize_to_codes(values[:, :0], weight, bias, 1e-5, rounding).shape == (2, 0, columns)


def test_codes_of_few_bits_lie_packed_in_memory():
    for bits, size in ((2, 16), (3, 32), (4, 32), (5, 64), (8, 64)):
        weight = TritonKernel(product(10, 64, bits, "column"))._weight
        assert weight.octets.shape == (10, size), bits


def test_codes_that_do_not_give_the_operand_are_not_used():
    own = product(6, 40, 4, "column")
    other = IntegerProduct(own.operand.roll(1, 0), own.scale, own.bias, own.weight)
    kernel, codes = TritonKernel(other), random_codes(3, 40)
    assert kernel._weight.fields == 1 and torch.equal(kernel(codes), ReferenceKernel(other)(codes))


@pytest.mark.parametrize("rows", [1, 70])
def test_a_launch_asks_for_no_number(rows):
    kernel, codes = TritonKernel(product(5, 40, 4, "column")), random_codes(rows, 40)
    ones = torch.ones(40, device=DEVICE)
    rounding = Rounding(ones, ones, 4)
    expected = kernel(codes, torch.float32, "gelu")
    with Unwaiting():
        assert kernel(codes, torch.float32, "gelu").shape == expected.shape
        assert kernel.to_codes(codes, Rounding(ones[:5], ones[:5], 4)).shape == expected.shape
        assert kernel.normalize_to_codes(codes.float(), ones, ones, 1e-6, rounding).shape == codes.shape
        with pytest.raises(AssertionError):
            ones.sum().item()


def test_a_kernel_is_launched_where_its_tensors_are():
    place = SimpleNamespace(is_cuda=True, device=torch.device("cuda:1"))
    context = device_of(place)
    assert isinstance(context, torch.cuda.device) and context.idx == 1
    with device_of(torch.ones(1)):  # needs no GPU
        pass


def test_only_tiles_that_fit_the_rows_are_tried():
    tiles = linear.configurations(linear.TILES)

    def rows_of(count):
        return {tile.kwargs["ROWS"] for tile in linear.tiles_for(tiles, {"rows_up_to": count})}

    assert rows_of(1) == {16} and rows_of(32) == {16, 32} and rows_of(512) == {16, 32, 64, 128}
    assert rows_of(2**16) == {64, 128}


@pytest.mark.parametrize(
    ("there", "hip", "capability", "expected"),
    [
        (True, None, (9, 0), TritonKernel),
        (True, None, (8, 0), TritonKernel),
        (True, None, (7, 5), IntMMKernel),
        (True, "6.4", (9, 4), IntMMKernel),
        (False, None, (9, 0), IntMMKernel),
    ],
)
def test_a_gpu_gets_triton_where_triton_compiles_for_it(there, hip, capability, expected, monkeypatch):
    monkeypatch.setattr(triton_kernel, "has_triton", lambda: there)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    triton_kernel._is_nvidia.cache_clear()
    assert choose_kernel(torch.device("cuda"), 4) is expected
    triton_kernel._is_nvidia.cache_clear()


@pytest.mark.parametrize("device", ["mps", "xpu", "meta"])
def test_other_devices_multiply_floats(device):
    assert choose_kernel(torch.device(device), 4) is ReferenceKernel
