# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_mixq.architectures.rules import (
    STABILISER,
    GatedProduct,
    Identity,
    MatrixProduct,
    Mean,
    Padding,
    PixelConvolution,
    PositiveLinear,
    ResidualSum,
    stabilised,
)
from optimum_mixq.architectures.watching import attend
from optimum_mixq.stages.relevance.propagation import attend_with_rules


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def propagate(rule, inputs, relevance, *rest):
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    return torch.autograd.grad(rule.apply(*inputs, *rest), inputs, relevance)


def slow_positive_linear(x, weight, relevance):
    result = torch.zeros_like(x)
    for row in range(len(x)):
        for output in range(len(weight)):
            parts = [max(float(x[row, i] * weight[output, i]), 0.0) for i in range(x.shape[1])]
            for i, part in enumerate(parts):
                result[row, i] += part / sum(parts) * relevance[row, output]
    return result


def steadied(contributions, share=STABILISER):
    """Contributions z + e sign(sum) |z|, whose sum is the stabilised denominator."""
    sign = 1.0 if sum(contributions) >= 0 else -1.0
    return [z + share * sign * abs(z) for z in contributions]


def test_the_linear_rule_is_that_of_the_equation():
    x, weight, relevance = numbers(4, 7), numbers(5, 7, seed=1), numbers(4, 5, seed=2)
    (found,) = propagate(PositiveLinear, [x], relevance, weight, numbers(5, seed=3))
    assert torch.allclose(found, slow_positive_linear(x, weight, relevance), atol=1e-5)


def test_the_linear_rule_spreads_evenly_where_nothing_contributes():
    (found,) = propagate(PositiveLinear, [torch.zeros(1, 4)], torch.ones(1, 2), torch.ones(2, 4), None)
    assert torch.allclose(found, torch.full((1, 4), 0.5))


def test_the_linear_rule_conserves_in_float32_where_contributions_are_nearly_all_negative():
    generator = torch.Generator().manual_seed(4)
    x, weight = torch.rand(64, 8, generator=generator), -torch.rand(32, 8, generator=generator)
    x[:, 0] *= -1e-6  # one contribution is positive, and as small as the rounding of the others' sum
    relevance = torch.randn(64, 32, generator=generator)
    (found,) = propagate(PositiveLinear, [x], relevance, weight, None)
    assert torch.allclose(found.sum(-1), relevance.sum(-1), atol=1e-5)


@pytest.mark.parametrize("share", [STABILISER, 1e-6, 0.0])
def test_the_product_rule_is_that_of_the_equation(share):
    a, b, relevance = numbers(3, 4), numbers(4, 5, seed=1), numbers(3, 5, seed=2)
    with stabilised(share):
        left, right = propagate(MatrixProduct, [a, b], relevance)
    expected_left, expected_right = torch.zeros_like(a), torch.zeros_like(b)
    for i in range(3):
        for j in range(5):
            parts = steadied([float(a[i, k] * b[k, j]) for k in range(4)], share)
            for k, part in enumerate(parts):
                expected_left[i, k] += part / sum(parts) * relevance[i, j] / 2
                expected_right[k, j] += part / sum(parts) * relevance[i, j] / 2
    assert torch.allclose(left, expected_left) and torch.allclose(right, expected_right)


def test_a_gate_and_what_it_lets_through_get_half_of_each_elements_relevance():
    a, b, relevance = numbers(2, 3), numbers(2, 3, seed=1), numbers(2, 3, seed=2)
    assert torch.equal(GatedProduct.apply(a, b), a * b)
    for found in propagate(GatedProduct, [a, b], relevance):
        for row in range(2):
            for column in range(3):
                assert float(found[row, column]) == float(relevance[row, column]) / 2


@pytest.mark.parametrize("share", [STABILISER, 0.0])
def test_the_residual_rule_is_that_of_the_equation_image_by_image(share):
    a, b, relevance = numbers(2, 3), numbers(2, 3, seed=1), numbers(2, 3, seed=2)
    with stabilised(share):
        left, right = propagate(ResidualSum, [a, b], relevance)
    for image in range(2):
        parts = []
        for i in range(3):
            pair = steadied([float(a[image, i]), float(b[image, i])], share)
            parts.append([part / sum(pair) * float(relevance[image, i]) for part in pair])
        sums = [sum(part[side] for part in parts) for side in (0, 1)]
        for side, found in ((0, left), (1, right)):
            share = abs(sums[side]) / (abs(sums[0]) + abs(sums[1])) * float(relevance[image].sum())
            expected = torch.tensor([part[side] * share / sums[side] for part in parts], dtype=torch.float64)
            assert torch.allclose(found[image], expected)


def test_without_a_stabiliser_relevance_is_lost_where_contributions_cancel_altogether():
    a, b = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 2.0], [-1.0, 3.0]])
    with stabilised(0.0):
        left, right = propagate(MatrixProduct, [a, b], torch.ones(1, 2))
    assert torch.allclose(left, torch.tensor([[0.2, 0.3]])) and torch.equal(right[:, 0], torch.zeros(2))
    left, _ = propagate(MatrixProduct, [a, b], torch.ones(1, 2))
    assert float(left.sum()) == pytest.approx(1.0, rel=1e-4)  # and half of each output's with one, as elsewhere


def test_the_residual_rule_keeps_images_apart():
    a, b, relevance = numbers(4, 3, 2), numbers(4, 3, 2, seed=1), numbers(4, 3, 2, seed=2)
    together = propagate(ResidualSum, [a, b], relevance)
    alone = propagate(ResidualSum, [a[1:2], b[1:2]], relevance[1:2])
    assert all(torch.allclose(whole[1:2], part) for whole, part in zip(together, alone, strict=True))


def test_the_pixel_rule_is_that_of_the_equation():
    x, weight, relevance = numbers(1, 2, 4, 4), numbers(3, 2, 2, 2, seed=1), numbers(1, 3, 2, 2, seed=2)
    (found,) = propagate(PixelConvolution, [x], relevance, weight, None, (2, 2))
    expected = torch.zeros_like(x)
    for output in range(3):
        for row in range(2):
            for column in range(2):
                parts = {}
                for channel in range(2):
                    low, high = float(x[0, channel].min()), float(x[0, channel].max())
                    for dy in range(2):
                        for dx in range(2):
                            w = float(weight[output, channel, dy, dx])
                            where = (channel, 2 * row + dy, 2 * column + dx)
                            parts[where] = float(x[0][where]) * w - low * max(w, 0) - high * min(w, 0)
                for where, part in parts.items():
                    expected[0][where] += part / sum(parts.values()) * relevance[0, output, row, column]
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_mean_rule_gives_to_what_is_positive():
    (found,) = propagate(Mean, [torch.tensor([[3.0, -1.0, 1.0]])], torch.ones(1, 1), -1)
    assert torch.allclose(found, torch.tensor([[0.75, 0.0, 0.25]]), atol=1e-5)


def test_relevance_on_padding_goes_back_to_the_image():
    (found,) = propagate(Padding, [torch.ones(1, 2, 2)], torch.ones(1, 3, 2), (0, 0, 0, 1))
    assert torch.allclose(found, torch.full((1, 2, 2), 1.5))


def test_identity_gives_the_functions_value_and_passes_relevance():
    x = numbers(3, 4).requires_grad_()
    output = Identity.apply(x, F.gelu)
    assert torch.equal(output, F.gelu(x))
    assert torch.equal(torch.autograd.grad(output, x, torch.full_like(x, 2.0))[0], torch.full_like(x, 2.0))


@pytest.mark.parametrize("masked", [False, True])
def test_attention_with_rules_gives_the_plain_output(masked):
    query, key, value = (numbers(2, 3, 5, 4, seed=seed) for seed in range(3))
    mask = numbers(2, 1, 5, 5, seed=4) if masked else None
    plain = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3)
    for function in (attend, attend_with_rules):
        assert torch.allclose(function(query, key, value, mask, 0.3), plain)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), zeros=st.floats(0, 1), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_every_rule_conserves_relevance(seed, zeros, scale):
    generator = torch.Generator().manual_seed(seed)

    def sparse(*shape):
        kept = torch.rand(*shape, generator=generator) >= zeros
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64) * kept

    x, y, relevance = sparse(2, 3, 4), sparse(2, 3, 4), numbers(2, 3, 4, seed=seed)
    cases = [
        (propagate(PositiveLinear, [x], relevance[..., :2], sparse(2, 4), None), relevance[..., :2]),
        (propagate(MatrixProduct, [x, sparse(2, 4, 3)], relevance[..., :3]), relevance[..., :3]),
        (propagate(Mean, [x], relevance[..., :1], -1), relevance[..., :1]),
    ]
    map_relevance = relevance[:, :, None, :2]
    pixel_case = propagate(PixelConvolution, [sparse(2, 1, 4, 4)], map_relevance, sparse(3, 1, 4, 2), None, (1, 2))
    cases.append((pixel_case, map_relevance))
    cases.append((propagate(ResidualSum, [x, y], relevance), relevance))
    cases.append((propagate(GatedProduct, [x, y], relevance), relevance))
    for found, given_out in cases:
        total = sum(part.sum() for part in found)
        assert torch.allclose(total, given_out.sum(), atol=1e-6 * float(given_out.abs().sum()) + 1e-9)
