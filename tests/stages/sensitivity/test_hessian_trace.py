# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from conftest import make_model, random_pixels
from small_changes import all_signs, change_of, damages_of, numbers, see_classes, wave

from optimum_mixq import MixQConfig, MixQQuantizer
from optimum_mixq.architectures.describe import describe
from optimum_mixq.stages.sensitivity.changes import Change
from optimum_mixq.stages.sensitivity.hessian_trace import HessianTrace
from optimum_mixq.stages.sensitivity.traces import trace_units
from optimum_mixq.tasks import task_of
from optimum_mixq.utils.bits import Bits


def square(values):
    return sum(value**2 for value in numbers(values))


def half_trace_times_square(values, gradient, change):
    return square(gradient) / values.numel() * square(change) / 2


def sum_over_parts(seen, change):
    """Return the sum over a unit's operands and weights of 1/2 |g|^2 / n |d|^2."""
    layers = change.layers() if change.layers else []
    total = sum(half_trace_times_square(values, gradient, wave(values)) for values, gradient in seen.operands)
    for (values, gradient), (weight, _) in zip(seen.weights, layers, strict=True):
        total += half_trace_times_square(values, gradient, weight)
    return total


@pytest.mark.parametrize("name", ["vit", "swin", "padded_swin"])
def test_the_damage_is_the_mean_trace_times_the_squared_error(name):
    model = make_model(name).double()
    pixels, units, task = random_pixels(model, 2).double(), describe(model).units, task_of(model)
    signs = all_signs(5, 2).to(pixels.device)
    found = damages_of(HessianTrace(), model, pixels, lambda logits: [task.probe(logits, row, 4.0) for row in signs])
    for image in range(2):
        expected = dict.fromkeys(found, 0.0)
        for share, seen in see_classes(model, units, pixels[image : image + 1], 4.0):
            for unit in units:
                expected[unit.name] += share * sum_over_parts(seen[unit.name], change_of(model, unit))
        assert {unit: float(row[image]) for unit, row in found.items()} == pytest.approx(expected, rel=1e-9)


def test_the_trace_of_a_weight_is_that_of_second_derivatives_of_the_divergence(vit):
    model = vit.double()
    pixels, task, architecture = random_pixels(model, 1).double(), task_of(model), describe(model)
    unit = next(unit for unit in architecture.units if unit.name == "blocks.2.proj")
    weight = model.get_submodule(unit.modules[0]).weight
    logits = model(pixel_values=pixels).logits
    divergence = task.divergence(logits, logits.detach(), 4.0).sum()
    (gradient,) = torch.autograd.grad(divergence, weight, create_graph=True)
    trace = sum(
        float(torch.autograd.grad(value, weight, retain_graph=True)[0].flatten()[number])
        for number, value in enumerate(gradient.flatten())
    )
    changes = {Bits(2, 8): Change(lambda: [(torch.full_like(weight, 0.1), None)], None)}
    signs = all_signs(5, 1).to(pixels.device)
    (found,) = (
        HessianTrace().damages(traces[unit.name], changes, Bits(8, 8), 1)[Bits(2, 8)]
        for traces in trace_units(model, architecture, pixels, lambda z: [task.probe(z, row, 4.0) for row in signs])
        if unit.name in traces
    )
    assert float(found) == pytest.approx(trace * 0.1**2 / 2, rel=1e-8)  # |dW|^2 / n is 0.1^2


def test_a_plan_is_chosen_by_mean_traces(vit):
    config = MixQConfig(
        bits=4, calibration_samples=4, sensitivity_samples=8, batch_size=4, sensitivity="hawq", compare=False,
        candidate_bits=(3, 5),
    )  # fmt: skip
    quantizer = MixQQuantizer.from_pretrained(vit)
    quantizer.quantize(config, random_pixels(vit, 12))
    assert quantizer.plan.provenance["achieved"]["average_bits"] <= 4
    table = quantizer.sensitivity
    for unit, row in table.table.items():
        assert table.damage(unit, Bits(3, 3)) == row[(3, 8)] + row[(8, 3)] and row[(8, 3)] > row[(8, 5)] > 0
        assert (row[(3, 8)] > row[(5, 8)] > 0) != unit.endswith(("qk", "av"))
