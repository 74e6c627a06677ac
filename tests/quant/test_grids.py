# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import math

import pytest
import torch
from cuda_stand_in import DEVICE, other_device
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_mixq.quant.grids import (
    SMALLEST_SCALE,
    UniformGrid,
    dequantize,
    fake_quantize,
    quantize,
    require_finite,
    symmetric_grid,
    uniform_grid,
)
from optimum_mixq.quant.layers import QuantLinear


BITS = range(2, 9)
DTYPES = (torch.float32, torch.bfloat16, torch.float64)
EDGE_CASES = {
    "all equal": [3.0, 3.0, 3.0],
    "all zero": [0.0, 0.0],
    "one element": [-1.5],
    "huge": [-5e4, 3.0, 1e5],
    "tiny": [-1e-6, 2e-6, 0.0],
    "subnormal": [1e-42, -1e-42, 0.0],
    "far from zero": [1000.0, 1001.0, 1000.5],
}


def slow_code(value, scale, zero_point, bits):
    """The equation, one number at a time, in Python's float64."""
    return min(max(math.floor(value / scale + zero_point + 0.5), 0), 2**bits - 1)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_codes_are_those_of_the_equation(bits, dtype):
    values = torch.randn(200, generator=torch.Generator().manual_seed(bits)).to(dtype)
    grid = uniform_grid(values.amin(), values.amax(), bits)
    codes = quantize(values, grid).tolist()
    for value, code in zip(values.tolist(), codes, strict=True):
        exact = value / float(grid.scale) + float(grid.zero_point) + 0.5
        # A value on the border between two codes may fall to either side in float32.
        on_border = abs(exact - round(exact)) < 1e-4
        assert code == slow_code(value, float(grid.scale), float(grid.zero_point), bits) or on_border


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", EDGE_CASES)
def test_fake_quantization_is_exactly_dequantized_codes(case, dtype, bits):
    values = torch.tensor(EDGE_CASES[case], dtype=dtype)
    grid = uniform_grid(values.amin(), values.amax(), bits)
    assert torch.isfinite(grid.scale).all() and (grid.scale > 0).all()
    assert grid.zero_point == grid.zero_point.round()
    expected = dequantize(quantize(values, grid), grid).to(dtype)
    assert torch.equal(fake_quantize(values, grid), expected)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("case", ["all equal", "all zero", "one element", "huge", "far from zero"])
def test_values_inside_the_range_move_by_at_most_half_a_step(case, bits):
    values = torch.tensor(EDGE_CASES[case])
    grid = uniform_grid(values.amin(), values.amax(), bits)
    # The float16 scale may fall short of the range by one part in 2048 at the far end.
    tolerance = 0.51 * grid.scale + values.abs().amax() * 2**-10
    assert ((fake_quantize(values, grid) - values).abs() <= tolerance).all()


@given(low=st.floats(-1e4, 1e4, allow_nan=False), width=st.floats(0, 1e4, allow_nan=False), bits=st.integers(2, 8))
@settings(deadline=None, max_examples=200)
def test_a_grid_quantizes_its_own_values_to_themselves(low, width, bits):
    grid = uniform_grid(torch.tensor(low), torch.tensor(low + width), bits)
    codes = torch.arange(2**bits)
    assert torch.equal(quantize(dequantize(codes, grid), grid), codes.to(torch.int32))


def test_per_channel_grids_act_on_their_own_channel():
    values = torch.tensor([[0.0, 100.0], [1.0, 300.0]])
    grid = uniform_grid(values.amin(0), values.amax(0), 8)
    for channel in range(2):
        alone = UniformGrid(grid.scale[channel], grid.zero_point[channel], 8)
        assert torch.equal(fake_quantize(values, grid)[:, channel], fake_quantize(values[:, channel], alone))


@pytest.mark.parametrize("bits", BITS)
def test_symmetric_codes_fit_signed_integers_of_the_same_width(bits):
    grid = symmetric_grid(torch.tensor(2.0), bits)
    signed = quantize(torch.tensor([-2.0, 0.0, 2.0]), grid) - grid.zero_point
    half = 2 ** (bits - 1)
    assert signed.tolist() == [-(half - 1), 0, half - 1]


def test_the_gradient_passes_inside_the_grid_and_stops_outside():
    values = torch.tensor([-5.0, -0.2, 0.3, 5.0], requires_grad=True)
    fake_quantize(values, uniform_grid(torch.tensor(-1.0), torch.tensor(1.0), 3)).sum().backward()
    assert values.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


def test_values_too_large_for_a_float16_step_raise():
    with pytest.raises(ValueError, match="Expected steps of at most 65504, found 1e\\+05: values this large"):
        uniform_grid(torch.tensor(0.0), torch.tensor(3e5), bits=2)


def test_on_another_device_they_raise_once_a_layer_takes_them():
    with other_device() as to_host:
        weight = torch.full((2, 3), 3e5, device=DEVICE)
        grid = uniform_grid(torch.zeros(2, device=DEVICE), torch.full((2,), 3e5, device=DEVICE), bits=2)
        inputs = uniform_grid(torch.zeros((), device=DEVICE), torch.ones((), device=DEVICE), bits=2)
        assert to_host == []
        with pytest.raises(ValueError, match="Expected steps of at most 65504, found inf: values this large"):
            QuantLinear(weight, None, grid, inputs, "folded")


def test_scales_are_what_float16_stores():
    grid = uniform_grid(torch.tensor([-0.1, 0.0]), torch.tensor([0.2, 1e-9]), 4)
    assert torch.equal(grid.scale, grid.scale.half().float())
    assert grid.scale[1] == SMALLEST_SCALE


@pytest.mark.parametrize(("value", "kind"), [(float("nan"), "NaN"), (float("inf"), "infinite")])
def test_numbers_that_are_not_finite_raise_with_the_layers_name(value, kind):
    with pytest.raises(ValueError, match=f"Expected finite numbers in blocks.1.fc2, found {kind} values"):
        require_finite(torch.tensor([1.0, value]), "blocks.1.fc2")


def test_a_channel_of_zeros_has_the_least_scale_of_the_others():
    low, high = torch.tensor([0.0, 0.0, -1.0]), torch.tensor([0.0, 0.5, 1.0])
    grid = uniform_grid(low, high, 8)
    assert grid.scale[0] == grid.scale[1] < grid.scale[2] and grid.zero_point[0] == 0
    assert uniform_grid(low[:1], high[:1], 8).scale.tolist() == [1.0]
