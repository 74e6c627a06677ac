# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_mixq.quant.attention import AttentionQuantizer
from optimum_mixq.quant.grids import UniformGrid, symmetric_grid, uniform_grid
from optimum_mixq.quant.layers import QuantLinear
from optimum_mixq.quant.learned import LearnedAttention, LearnedLinear, LearnedRounding, learned_grid, stored_step
from optimum_mixq.quant.packed import PackedLinear


def slow_rounding(values, steps, zero_points, offsets, bits, factor, upstream):
    """LSQ+ element by element, in float64: outputs and the gradients of values, steps and offsets."""
    largest = 2**bits - 1
    outputs, to_values = torch.zeros_like(values), torch.zeros_like(values)
    to_steps, to_offsets = torch.zeros_like(steps), torch.zeros_like(steps)
    for row in range(values.shape[0]):
        for channel in range(values.shape[1]):
            x, s, z = (float(t) for t in (values[row, channel], steps[channel], zero_points[channel]))
            g = float(upstream[row, channel])
            code = math.floor(x / s + z + 0.5)
            kept = min(max(code, 0), largest)
            outputs[row, channel] = s * (kept - z)
            if 0 <= code <= largest:
                to_values[row, channel] = g
                to_steps[channel] += factor * g * (code - z - x / s)
            elif offsets is not None:
                to_steps[channel] += factor * g * kept
                to_offsets[channel] += factor * g
            else:
                to_steps[channel] += factor * g * (kept - z)
    return outputs, to_values, to_steps, to_offsets


@pytest.mark.parametrize("learns_offset", [True, False])
@given(bits=st.integers(2, 8), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_gradients_are_those_of_the_papers_formulas(learns_offset, bits, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(6, 3, generator=generator, dtype=torch.float64).requires_grad_()
    steps = (torch.rand(3, generator=generator, dtype=torch.float64) * 2 / 2**bits + 0.05).requires_grad_()
    zero_points = torch.randint(0, 2**bits, (3,), generator=generator).double()
    offsets = (-zero_points * steps.detach()).requires_grad_() if learns_offset else None
    upstream = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    outputs = LearnedRounding.apply(values, steps, zero_points, offsets, bits, 0.3)
    outputs.backward(upstream)
    expected = slow_rounding(
        values.detach(),
        steps.detach(),
        zero_points,
        None if offsets is None else offsets.detach(),
        bits,
        0.3,
        upstream,
    )
    found = (outputs.detach(), values.grad, steps.grad, *([] if offsets is None else [offsets.grad]))
    for one, other in zip(found, expected, strict=False):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_step_per_row_gets_the_sum_over_its_row():
    weight = torch.tensor([[0.3, 5.0], [0.1, -0.2]], dtype=torch.float64, requires_grad=True)
    step = torch.tensor([[1.0], [1.0]], dtype=torch.float64, requires_grad=True)
    zero_point = torch.tensor([[2.0], [2.0]], dtype=torch.float64)
    LearnedRounding.apply(weight, step, zero_point, None, 2, 1.0).sum().backward()
    # 0.3 rounds to 0, 5 is cut at 1; 0.1 and -0.2 round to 0
    torch.testing.assert_close(step.grad, torch.tensor([[-0.3 + 1.0], [-0.1 + 0.2]], dtype=torch.float64))


def quant_linear(arithmetic, weight_bits, input_bits, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(5, 7, generator=generator), torch.randn(5, generator=generator)
    inputs = torch.randn(2, 9, 7, generator=generator) + torch.randn(7, generator=generator)
    input_grid = uniform_grid(inputs.amin((0, 1)), inputs.amax((0, 1)) * 0.8, input_bits)
    layer = QuantLinear(weight, bias, weight_grid(weight, weight_bits), input_grid, arithmetic)
    if layer.arithmetic.name == "folded":
        grid = weight_grid(layer.gridded_weight(), weight_bits)
        layer.mixq_weight_scale.copy_(grid.scale)
        layer.mixq_weight_zero_point.copy_(grid.zero_point)
    return layer, inputs


def weight_grid(weight, bits):
    weight = weight.detach()
    if bits == 8:  # codes less their zero point have to fit int8
        return symmetric_grid(weight.abs().amax(1, keepdim=True), 8)
    return uniform_grid(weight.amin(1, keepdim=True), weight.amax(1, keepdim=True), bits)


@pytest.mark.parametrize("arithmetic", ["column", "folded"])
@pytest.mark.parametrize("bits", [(2, 2), (3, 4), (8, 8)])
def test_a_learned_layer_starts_where_calibration_ended(arithmetic, bits):
    layer, inputs = quant_linear(arithmetic, *bits)
    learned = LearnedLinear.from_quant(layer)
    assert torch.equal(learned.eval()(inputs), layer.eval()(inputs))
    torch.testing.assert_close(learned.train()(inputs), layer.train()(inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arithmetic", ["column", "folded"])
@pytest.mark.parametrize("bits", [(2, 2), (3, 4), (8, 8)])
def test_after_training_evaluation_equals_the_packed_layer_and_stays_near_training(arithmetic, bits):
    layer, inputs = quant_linear(arithmetic, *bits)
    learned = LearnedLinear.from_quant(layer).train()
    optimizer = torch.optim.AdamW(learned.parameters(), lr=0.01)
    before = {name: parameter.detach().clone() for name, parameter in learned.named_parameters()}
    for _ in range(10):
        optimizer.zero_grad()
        learned(inputs).square().mean().backward()
        optimizer.step()
    assert all(not torch.equal(parameter, before[name]) for name, parameter in learned.named_parameters())
    evaluated = learned.eval()(inputs)
    with torch.no_grad():
        packed = PackedLinear.from_quant(learned)
        torch.testing.assert_close(packed(inputs), evaluated, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(learned.train()(inputs), evaluated, rtol=1e-4, atol=1e-4)


def test_evaluation_moves_no_grid():
    layer, inputs = quant_linear("column", 2, 2)
    learned = LearnedLinear.from_quant(layer).eval()
    before = {name: tensor.clone() for name, tensor in learned.state_dict().items()}
    learned(inputs * 10)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learned.state_dict().items())


def test_zero_points_are_integers_and_steps_float16_at_every_moment():
    grid = learned_grid(torch.tensor([0.1234567, 0.5]), torch.tensor([0.3, -0.77]), 4)
    assert torch.equal(grid.zero_point, torch.tensor([-2.0, 2.0]))
    assert torch.equal(grid.scale, grid.scale.half().float())


@given(st.floats(-1, 60000, width=32))
def test_a_stored_step_is_what_float16_holds_and_never_zero(step):
    value = torch.tensor([step], requires_grad=True)
    stored = stored_step(value)
    assert stored.item() > 0 and (step <= 0 or stored.item() == stored.detach().half().float().item())
    stored.sum().backward()
    assert value.grad.item() == 1


def test_dampening_is_the_squared_distance_to_the_grid_in_steps():
    grid = UniformGrid(torch.tensor([[0.5]]), torch.tensor([[1.0]]), 2)
    inputs = UniformGrid(torch.ones(3), torch.zeros(3), 8)
    layer = LearnedLinear(torch.tensor([[0.1, 0.9, 9.0]]), None, grid, inputs, "column")
    # 0.1 is 0.2 steps from 0, 0.9 is 0.2 steps from 1, and 9 is cut to the last value: no distance
    assert abs(layer.dampening().item() - (0.2**2 + 0.2**2)) < 1e-6
    layer.dampening().backward()
    assert layer.weight.grad[0, 2] == 0 and layer.weight.grad[0, 0] > 0 > layer.weight.grad[0, 1]


@pytest.mark.parametrize("masked", [True, False])
def test_learned_attention_starts_where_calibration_ended_and_every_grid_learns(masked):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 2, 5, 4, generator=generator) for _ in range(3))
    mask = torch.randn(2, 1, 5, 5, generator=generator) if masked else None
    quantizer = AttentionQuantizer(2, 4, 4, 3)
    for name, operand, bits in (("query", query, 4), ("key", key, 4), ("value", value, 3)):
        low, high = operand.amin((0, 2)), operand.amax((0, 2))
        quantizer.set_grid(name, uniform_grid(low, high, bits))
    learned = LearnedAttention.from_quant(quantizer)
    with torch.no_grad():
        expected = quantizer.eval()(query, key, value, mask, 0.5)
        assert torch.equal(learned.eval()(query, key, value, mask, 0.5), expected)
    found = learned.train()(query.requires_grad_(), key.requires_grad_(), value.requires_grad_(), mask, 0.5)
    # Evaluation multiplies in bfloat16, where a score near a code's edge may get the next code.
    assert (found.detach() - expected).abs().mean() < 5e-3
    found.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for name, parameter in learned.named_parameters() if "step" in name)
