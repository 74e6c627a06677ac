# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from optimum_mixq.architectures.convolution_rules import (
    PositiveConvolution,
    convolution,
    pooling,
    resizing,
    transposed_convolution,
)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_positive_convolution(x, weight, relevance, stride, padding, groups):
    """Each output's relevance goes to the inputs under its kernel in proportion to their positive contributions.

    Where there are none it goes to all inputs evenly.
    """
    result, left = torch.zeros_like(x), 0.0
    per_group, outputs_per_group = weight.shape[1], len(weight) // groups
    for output in range(len(weight)):
        first = output // outputs_per_group * per_group
        for row in range(relevance.shape[2]):
            for column in range(relevance.shape[3]):
                parts = {}
                for channel in range(per_group):
                    for down in range(weight.shape[2]):
                        for right in range(weight.shape[3]):
                            at = row * stride + down - padding, column * stride + right - padding
                            if 0 <= at[0] < x.shape[2] and 0 <= at[1] < x.shape[3]:
                                place = (0, first + channel, *at)
                                parts[place] = max(float(x[place] * weight[output, channel, down, right]), 0.0)
                share = float(relevance[0, output, row, column])
                left += share if sum(parts.values()) == 0 else 0.0
                for place, part in parts.items():
                    result[place] += part / (sum(parts.values()) or 1.0) * share
    return result + left / x.numel()


@pytest.mark.parametrize(
    ("channels", "outputs", "side", "stride", "padding", "groups"),
    [(2, 3, 3, 2, 1, 1), (3, 3, 3, 1, 1, 3), (2, 4, 2, 2, 0, 1), (3, 2, 1, 1, 0, 1)],
)
def test_the_rule_of_a_convolution_is_that_of_the_equation(channels, outputs, side, stride, padding, groups):
    x, weight = numbers(1, channels, 6, 6), numbers(outputs, channels // groups, side, side, seed=1)
    leaf = x.clone().requires_grad_()
    output = convolution(leaf, weight, numbers(outputs, seed=2), stride, padding, 1, groups)
    expected = F.conv2d(x, weight, numbers(outputs, seed=2), stride, padding, 1, groups)
    torch.testing.assert_close(output.detach(), expected)
    relevance = numbers(*output.shape, seed=3)
    (found,) = torch.autograd.grad(output, leaf, relevance)
    slow = slow_positive_convolution(x, weight, relevance, stride, padding, groups)
    torch.testing.assert_close(found, slow, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.sum(), relevance.sum())


@pytest.mark.parametrize(("stride", "padding"), [(2, 0), (1, 1), (2, 1)])
def test_the_rule_of_a_transposed_convolution_is_that_of_the_linear_layer_that_it_is(stride, padding):
    x, weight, bias = numbers(1, 2, 3, 3), numbers(2, 3, 3, 3, seed=1), numbers(3, seed=2)
    leaf = x.clone().requires_grad_()
    output = transposed_convolution(leaf, weight, bias, stride, padding)
    torch.testing.assert_close(output.detach(), F.conv_transpose2d(x, weight, bias, stride, padding))
    relevance = numbers(*output.shape, seed=3)
    (found,) = torch.autograd.grad(output, leaf, relevance)
    slow, left = torch.zeros_like(x).flatten(), 0.0
    units = torch.eye(x.numel(), dtype=x.dtype).view(-1, *x.shape[1:])
    matrix = F.conv_transpose2d(units, weight, None, stride, padding).flatten(1)  # (inputs, outputs)
    for column, share in enumerate(relevance.flatten().tolist()):
        parts = [max(float(value * factor), 0.0) for value, factor in zip(x.flatten(), matrix[:, column], strict=True)]
        left += share if sum(parts) == 0 else 0.0
        for row, part in enumerate(parts):
            slow[row] += part / (sum(parts) or 1.0) * share
    torch.testing.assert_close(found.flatten(), slow + left / x.numel(), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.sum(), relevance.sum())


def test_a_convolution_spreads_evenly_where_nothing_contributes():
    leaf = torch.zeros(2, 3, 4, 4, requires_grad=True)
    output = PositiveConvolution.apply(leaf, torch.ones(5, 3, 2, 2), None, 2, 0, 1, 1)
    (found,) = torch.autograd.grad(output, leaf, torch.ones_like(output))
    assert torch.allclose(found, torch.full_like(found, 20 / 48))


@pytest.mark.parametrize(
    ("rule", "resize"),
    [
        (partial(resizing, size=(5, 7), mode="nearest"), partial(F.interpolate, size=(5, 7), mode="nearest")),
        (
            partial(resizing, size=(5, 7), mode="bilinear", align_corners=False),
            partial(F.interpolate, size=(5, 7), mode="bilinear", align_corners=False),
        ),
        (partial(pooling, output_size=(1, 2)), partial(F.adaptive_avg_pool2d, output_size=(1, 2))),
    ],
)
def test_a_map_that_is_resized_gets_relevance_by_its_positive_numbers_and_all_of_it(rule, resize):
    x = numbers(2, 3, 2, 3).requires_grad_()
    output = rule(x)
    torch.testing.assert_close(output.detach(), resize(x.detach()))
    relevance = numbers(*output.shape, seed=1)
    (found,) = torch.autograd.grad(output, x, relevance)
    torch.testing.assert_close(found.sum((2, 3)), relevance.sum((2, 3)))
    positive = x.detach().clamp(min=0) + 1e-6 * x.detach().clamp(min=0).mean((2, 3), keepdim=True)
    for image in range(2):
        for channel in range(3):
            result = torch.zeros(2, 3, dtype=torch.float64)
            for place in range(6):  # what a single input adds to each output is its weight there
                single = torch.zeros(1, 1, 2, 3, dtype=torch.float64)
                single[0, 0, place // 3, place % 3] = positive[image, channel, place // 3, place % 3]
                share = resize(single) / resize(positive[image, channel][None, None])
                result[place // 3, place % 3] = (share[0, 0] * relevance[image, channel]).sum()
            torch.testing.assert_close(found[image, channel], result)


def test_what_carries_no_relevance_is_computed_as_it_is():
    assert convolution(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 1, 1)) is None
    assert resizing(torch.ones(1, 1, 2, 2), size=(4, 4)) is None and pooling(torch.ones(1, 1, 2, 2), 1) is None
