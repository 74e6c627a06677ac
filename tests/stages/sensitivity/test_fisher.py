# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
from conftest import make_model, random_pixels
from small_changes import all_signs, change_of, damages_of, numbers, see_classes, wave

from optimum_mixq import MixQConfig, MixQQuantizer
from optimum_mixq.architectures.describe import describe
from optimum_mixq.stages.sensitivity.fisher import Fisher
from optimum_mixq.tasks import task_of
from optimum_mixq.utils.bits import Bits


def sum_squared_products(gradient, change):
    return sum((g * d) ** 2 for g, d in zip(numbers(gradient), numbers(change), strict=True))


def half_sum_of_squares(seen, change):
    """Return 1/2 sum (g d)^2 over all numbers that change."""
    layers = change.layers() if change.layers else []
    biases = [bias for _, bias in layers if bias is not None]
    total = sum(sum_squared_products(gradient, wave(values)) for values, gradient in seen.operands)
    for (_, gradient), (weight, _) in zip(seen.weights, layers, strict=True):
        total += sum_squared_products(gradient, weight)
    for (_, gradient), bias in zip(seen.biases, biases, strict=True):
        total += sum_squared_products(gradient, bias)
    return total / 2


@pytest.mark.parametrize("name", ["vit", "swin", "padded_swin"])
def test_the_damage_is_the_mean_over_classes_of_squared_gradients_times_squared_errors(name):
    model = make_model(name).double()
    pixels, units, task = random_pixels(model, 2).double(), describe(model).units, task_of(model)
    signs = all_signs(5, 2).to(pixels.device)
    found = damages_of(Fisher(), model, pixels, lambda logits: [task.probe(logits, row, 4.0) for row in signs])
    for image in range(2):
        expected = dict.fromkeys(found, 0.0)
        for share, seen in see_classes(model, units, pixels[image : image + 1], 4.0):
            for unit in units:
                expected[unit.name] += share * half_sum_of_squares(seen[unit.name], change_of(model, unit))
        assert {unit: float(row[image]) for unit, row in found.items()} == pytest.approx(expected, rel=1e-9)


def test_a_plan_is_chosen_by_the_diagonal_of_fisher(vit):
    config = MixQConfig(
        bits=4, calibration_samples=4, sensitivity_samples=8, batch_size=4, sensitivity="fisher", compare=False,
        candidate_bits=(3, 5),
    )  # fmt: skip
    quantizer = MixQQuantizer.from_pretrained(vit)
    quantizer.quantize(config, random_pixels(vit, 12))
    assert quantizer.plan.provenance["achieved"]["average_bits"] <= 4
    table = quantizer.sensitivity
    for unit, row in table.table.items():
        # The errors of weights and of activations are taken for independent.
        assert table.damage(unit, Bits(3, 3)) == row[(3, 8)] + row[(8, 3)] and row[(8, 3)] > 0
        assert (row[(3, 8)] > row[(5, 8)] > 0) != unit.endswith(("qk", "av"))
