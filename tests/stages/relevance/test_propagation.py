# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import copy

import pytest
import torch
from conftest import make_model, random_pixels

from optimum_mixq.architectures.describe import describe
from optimum_mixq.architectures.watching import watched_units
from optimum_mixq.stages.relevance.propagation import relevance_rules
from optimum_mixq.tasks import run_model


def state_of(model):
    return (
        copy.deepcopy(model.state_dict()),
        [(name, module.training, "forward" in vars(module)) for name, module in model.named_modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()),
        model.config._attn_implementation,
    )


def same(first, second):
    return all(torch.equal(first[0][name], second[0][name]) for name in first[0]) and first[1:] == second[1:]


def test_the_forward_computes_what_it_did(model):
    pixels = random_pixels(model)
    with torch.no_grad():
        plain = run_model(model, pixels)
    seen = []
    with relevance_rules(model, lambda unit, tensors: seen.append(unit)):
        logits = run_model(model, pixels.requires_grad_())
    assert torch.allclose(logits, plain, atol=1e-5)
    assert sorted(seen) == sorted(unit.name for unit in describe(model).units)


def test_the_model_is_restored(model):
    model(pixel_values=random_pixels(model))  # transformers adds hooks of its own at the first forward
    model.train()
    next(iter(model.parameters())).requires_grad_(False)
    before = state_of(model)
    with relevance_rules(model, lambda unit, tensors: None):
        model(pixel_values=random_pixels(model))
    assert same(before, state_of(model))


def test_the_model_is_restored_after_an_error(model):
    before = state_of(model)
    with pytest.raises(RuntimeError, match="in the middle"), relevance_rules(model):
        raise RuntimeError("in the middle")
    assert same(before, state_of(model))
    with torch.no_grad():
        model(pixel_values=random_pixels(model))


def test_watched_units_leave_gradients_plain(vit):
    pixels = random_pixels(vit).requires_grad_()
    (plain,) = torch.autograd.grad(run_model(vit, pixels)[:, 0].sum(), pixels)
    with watched_units(vit, lambda unit, tensors: None):
        logits = run_model(vit, pixels)
    assert torch.allclose(torch.autograd.grad(logits[:, 0].sum(), pixels)[0], plain, atol=1e-6)


def test_two_models_explained_at_once_do_not_see_each_other(vit):
    other = make_model("swin")
    seen = {"vit": [], "swin": []}
    alone = {name: gradients_of(each, random_pixels(each)) for name, each in (("vit", vit), ("swin", other))}
    with (
        relevance_rules(vit, lambda unit, tensors: seen["vit"].append(unit)),
        relevance_rules(other, lambda unit, tensors: seen["swin"].append(unit)),
    ):
        first = gradient_of_logits(vit, random_pixels(vit))
        second = gradient_of_logits(other, random_pixels(other))
    assert sorted(seen["vit"]) == sorted(unit.name for unit in describe(vit).units)
    assert sorted(seen["swin"]) == sorted(unit.name for unit in describe(other).units)
    assert torch.equal(first, alone["vit"]) and torch.equal(second, alone["swin"])


def test_one_model_watched_inside_its_own_relevance_goes_on_with_the_rules(vit):
    pixels = random_pixels(vit)
    expected = gradients_of(vit, pixels)
    with relevance_rules(vit):
        with watched_units(vit, lambda unit, tensors: None):
            vit(pixel_values=pixels)
        assert torch.equal(gradient_of_logits(vit, pixels), expected)


def gradients_of(model, pixels):
    with relevance_rules(model):
        return gradient_of_logits(model, pixels)


def gradient_of_logits(model, pixels):
    pixels = pixels.clone().requires_grad_()
    logits = run_model(model, pixels)
    return torch.autograd.grad(logits[:, 0].sum(), pixels)[0]


@pytest.mark.parametrize(
    "scale",
    [
        lambda values, factor: factor * values,
        lambda values, factor: values * factor,
        lambda values, factor: torch.mul(values, factor),
        lambda values, factor: values.mul(factor),
        lambda values, factor: 3.0 * values,
        lambda values, factor: -values,
        lambda values, factor: values.neg(),
        lambda values, factor: torch.neg(values),
    ],
)
def test_a_factor_that_does_not_depend_on_the_image_changes_no_relevance(vit, scale):
    values, factor = torch.randn(2, 3, 4, requires_grad=True), torch.randn(4)
    with relevance_rules(vit):
        output = scale(values, factor)
    assert torch.equal(output, scale(values, factor))
    relevance = torch.randn(2, 3, 4)
    assert torch.equal(torch.autograd.grad(output, values, relevance)[0], relevance)


def test_of_two_factors_that_depend_on_it_each_gets_half(vit):
    gate, values, relevance = (torch.randn(2, 3, 4, requires_grad=number < 2) for number in range(3))
    with relevance_rules(vit):
        output = gate * values
    for found in torch.autograd.grad(output, (gate, values), relevance):
        assert torch.equal(found, relevance / 2)


@pytest.mark.parametrize(
    "mean",
    [
        lambda values: values.mean(dim=1),
        lambda values: values.mean(1),
        lambda values: torch.mean(values, dim=1),
        lambda values: values.mean(1, keepdim=True)[:, 0],
    ],
)
def test_a_mean_of_tokens_gives_to_what_is_positive(vit, mean):
    values, relevance = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True), torch.randn(2, 4).double()
    with relevance_rules(vit):
        output = mean(values)
    assert torch.allclose(output, values.mean(1))
    found = torch.autograd.grad(output, values, relevance)[0]
    for image in range(2):
        for channel in range(4):
            parts = [max(float(values.detach()[image, token, channel]), 0.0) for token in range(3)]
            shares = [part / sum(parts) if sum(parts) else 1 / 3 for part in parts]
            for token, share in enumerate(shares):
                expected = share * float(relevance[image, channel])
                assert float(found[image, token, channel]) == pytest.approx(expected, abs=1e-5)
