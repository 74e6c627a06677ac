# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Quantized layers in both lives: fake-quantized and packed."""

import copy

import pytest
import torch
from conftest import DEVICE

from optimum_mixq.quant.arithmetics.column import column_operand
from optimum_mixq.quant.grids import dequantize, fake_quantize, quantize
from optimum_mixq.quant.layers import QuantLinear
from optimum_mixq.quant.packed import PackedLinear
from optimum_mixq.stages.calibration.observers import RowObserver, minmax_grid, searched_weight_grid


BITS = range(2, 9)


def quant_linear(bits=4, arithmetic="column", bias=True, inputs=40, outputs=24):
    generator = torch.Generator().manual_seed(bits)
    weight = torch.randn(outputs, inputs, generator=generator)
    rows = torch.randn(200, inputs, generator=generator) * torch.logspace(-1, 1, inputs) + 0.5
    observer = RowObserver("layer")
    observer.observe(rows)
    input_grid = minmax_grid(observer.result(), bits)
    scaled = weight * input_grid.scale if arithmetic == "folded" or bits == 8 else weight
    grid = searched_weight_grid(scaled, bits)
    vector = torch.randn(outputs, generator=generator) if bias else None
    return QuantLinear(weight, vector, grid, input_grid, arithmetic).eval().to(DEVICE), rows.to(DEVICE)


def slow_output(layer, rows):
    """The layer's equation in float64, one output at a time."""
    grid, inputs = layer.weight_grid, layer.input_grid
    codes = quantize(rows, inputs).double() - inputs.zero_point.double()
    gridded = dequantize(quantize(layer.gridded_weight(), grid), grid).double()
    columns = inputs.scale.double()
    results = []
    for row in range(layer.out_features):
        if layer.arithmetic.name == "folded":
            weights = gridded[row]
        else:
            operand, scale = column_operand(gridded[row : row + 1].float(), inputs.scale)
            weights = operand[0].double() * scale[0].double()
            assert ((weights - gridded[row] * columns).abs() <= scale.double() / 2 + 1e-9).all()
        results.append((codes * weights).sum(1) + (0 if layer.bias is None else layer.bias[row].double()))
    return torch.stack(results, 1)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("arithmetic", ["column", "folded"])
def test_a_layer_computes_its_equation(bits, arithmetic):
    layer, rows = quant_linear(bits, arithmetic)
    assert torch.allclose(layer(rows).double(), slow_output(layer, rows), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("arithmetic", ["column", "folded"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_packed_layer_gives_the_same_numbers_to_the_bit(bits, arithmetic, bias):
    layer, rows = quant_linear(bits, arithmetic, bias)
    assert torch.equal(PackedLinear.from_quant(layer)(rows), layer(rows))


@pytest.mark.parametrize("bits", BITS)
def test_training_and_evaluation_agree_up_to_rounding(bits):
    layer, rows = quant_linear(bits)
    assert torch.allclose(layer.train()(rows), layer.eval()(rows), rtol=1e-4, atol=1e-4)


def test_gradients_reach_weight_bias_and_input():
    layer, rows = quant_linear()
    rows.requires_grad_()
    layer.train()(rows).square().sum().backward()
    for tensor in (layer.weight, layer.bias, rows):
        assert tensor.grad is not None and tensor.grad.abs().sum() > 0


@pytest.mark.parametrize("bits", BITS)
def test_codes_take_their_true_width(bits):
    packed = PackedLinear.from_quant(quant_linear(bits)[0])
    assert packed.weight.dtype == torch.uint8 and packed.weight.numel() == 40 * 24 * bits // 8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_give_half_precision_outputs(dtype):
    layer, rows = quant_linear()
    packed = PackedLinear.from_quant(layer).to(dtype)
    output = packed(rows.to(dtype))
    assert output.dtype == dtype
    assert torch.allclose(output.float(), layer(rows.to(dtype).float()), rtol=0.02, atol=0.2)


def test_a_layer_that_is_not_prepared_computes_the_same_and_is_prepared_by_its_first_forward():
    layer, rows = quant_linear()
    stored = PackedLinear.from_quant(layer, prepared=False)
    assert stored._kernel is None
    assert torch.equal(stored.dequantized_weight(), PackedLinear.from_quant(layer).dequantized_weight())
    assert torch.equal(stored(rows), layer(rows))
    assert stored._kernel is not None


def test_casting_leaves_scales_alone():
    packed = PackedLinear.from_quant(quant_linear()[0])
    before = packed.input_grid.scale
    assert torch.equal(packed.to(torch.bfloat16).input_grid.scale, before)


def test_copies_pickles_and_state_dicts_compute_the_same(tmp_path):
    layer, rows = quant_linear()
    packed = PackedLinear.from_quant(layer)
    expected = packed(rows)
    torch.save(packed, tmp_path / "layer.pt")
    loaded = torch.load(tmp_path / "layer.pt", weights_only=False)
    fresh = PackedLinear(40, 24, 4, 4, "column", True, DEVICE)
    fresh.load_state_dict(packed.state_dict())
    for other in (copy.deepcopy(packed), loaded, fresh):
        assert torch.equal(other(rows), expected)


def test_a_new_state_is_seen_at_the_next_forward():
    (first, rows), (second, _) = quant_linear(4), quant_linear(4)
    second.bias.data.add_(1)
    packed, other = PackedLinear.from_quant(first), PackedLinear.from_quant(second)
    packed(rows)
    packed.load_state_dict(other.state_dict())
    assert torch.equal(packed(rows), other(rows))


def test_the_dequantized_layer_does_the_same_to_inputs_on_the_grid():
    layer, rows = quant_linear()
    on_grid = fake_quantize(rows, layer.input_grid)
    linear = PackedLinear.from_quant(layer).to_float()
    assert torch.allclose(linear(on_grid), layer(on_grid), rtol=1e-4, atol=1e-4)
