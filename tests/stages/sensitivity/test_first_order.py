# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
import torch.nn.functional as F
from conftest import PLAIN, make_model, random_pixels
from small_changes import change_of, damages_of, numbers, see, wave
from transformers import ViTConfig, ViTForImageClassification

from optimum_mixq import MixQConfig, MixQQuantizer
from optimum_mixq.architectures.describe import describe
from optimum_mixq.stages.sensitivity.first_order import FirstOrder
from optimum_mixq.tasks import task_of
from optimum_mixq.utils.bits import Bits


CONFIG = MixQConfig(
    bits=4, calibration_samples=4, sensitivity_samples=8, batch_size=4, sensitivity="first-order", compare=False,
    candidate_bits=(3, 5),
)  # fmt: skip


def affine(rows, weight, bias):
    """Return rows (N, C) times the weight (O, C), plus the bias, as lists."""
    weight = weight.tolist()
    bias = [0.0] * len(weight) if bias is None else bias.tolist()
    return [
        [sum(x * w for x, w in zip(row, line, strict=True)) + b for line, b in zip(weight, bias, strict=True)]
        for row in rows.reshape(-1, rows.shape[-1]).tolist()
    ]


def sum_of_layers(model, unit, seen, change):
    """Return the sum of (g dy)^2, with the output y from the unit's own layers and from the changed ones."""
    (x, _), *_ = seen.operands
    total = 0.0
    for name, (_, gradient), (weight, bias) in zip(unit.modules, seen.outputs, change.layers(), strict=True):
        layer = model.get_submodule(name)
        own_bias = None if layer.bias is None else layer.bias.detach()
        own = affine(x, layer.weight.detach(), own_bias)
        changed = affine(x + wave(x), layer.weight.detach() + weight, None if bias is None else own_bias + bias)
        for rows in zip(own, changed, gradient.reshape(len(own), -1).tolist(), strict=True):
            total += sum((g * (after - before)) ** 2 for before, after, g in zip(*rows, strict=True))
    return total


def sum_of_operands(seen):
    return sum(
        (g * d) ** 2
        for values, gradient in seen.operands
        for g, d in zip(numbers(gradient), numbers(wave(values)), strict=True)
    )


@pytest.mark.parametrize("labels", [[3, 0], None])
@pytest.mark.parametrize("name", ["vit", "swin"])
def test_the_damage_is_the_squared_gradient_of_the_loss_times_the_squared_change_of_the_output(name, labels):
    model = make_model(name).double()
    pixels, units, task = random_pixels(model, 2).double(), describe(model).units, task_of(model)
    given = None if labels is None else torch.tensor(labels, device=pixels.device)
    signs = torch.ones(2, 5, dtype=torch.float64)
    found = damages_of(
        FirstOrder(), model, pixels, lambda logits: [FirstOrder().start(task, logits, given, signs, 4.0)]
    )
    with torch.no_grad():
        wanted = labels or model(pixel_values=pixels).logits.argmax(-1).tolist()
    for image, label in enumerate(wanted):
        seen = see(
            model, units, pixels[image : image + 1],
            lambda logits, label=label: F.cross_entropy(logits, torch.tensor([label], device=logits.device)),
        )  # fmt: skip
        for unit in units:
            own, change = seen[unit.name], change_of(model, unit)
            expected = sum_of_layers(model, unit, own, change) if unit.modules else sum_of_operands(own)
            assert float(found[unit.name][image]) == pytest.approx(expected, rel=1e-7)


def table_of(model, images):
    return MixQQuantizer.from_pretrained(model).measure_sensitivity(images, CONFIG)


def test_labels_count_and_predictions_take_their_place(vit):
    pixels = random_pixels(vit, 12)
    with torch.no_grad():
        predicted = vit(pixel_values=pixels).logits.argmax(-1).tolist()
    alone = table_of(vit, pixels)
    as_predicted = table_of(vit, list(zip(pixels, predicted, strict=True)))
    otherwise = table_of(vit, [(image, (label + 1) % 5) for image, label in zip(pixels, predicted, strict=True)])
    assert alone.table == as_predicted.table
    for unit, row in alone.table.items():
        assert otherwise.table[unit][(8, 3)] > row[(8, 3)]  # a wrong label has the steeper loss


def test_a_plan_is_chosen_by_the_gradient_of_the_loss(vit):
    quantizer = MixQQuantizer.from_pretrained(vit)
    quantizer.quantize(CONFIG, random_pixels(vit, 12))
    assert quantizer.plan.provenance["achieved"]["average_bits"] <= 4
    table = quantizer.sensitivity
    for unit, row in table.table.items():
        assert table.damage(unit, Bits(3, 3)) == row[(3, 8)] + row[(8, 3)] and row[(8, 3)] > 0
        assert (row[(3, 8)] > row[(5, 8)] > 0) != unit.endswith(("qk", "av"))


def test_several_labels_are_predicted_too():
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**PLAIN, problem_type="multi_label_classification")).eval()
    logits = torch.tensor([[0.5, -2.0, 1.0]], dtype=torch.float64)
    found = FirstOrder().start(task_of(model), logits, None, logits, 4.0)
    shares = logits.sigmoid()
    torch.testing.assert_close(found, (shares - torch.tensor([[1.0, 0.0, 1.0]])) / 3)


def test_numbers_need_labels():
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**PLAIN | {"num_labels": 1})).eval()
    pixels = random_pixels(model, 12)
    with pytest.raises(ValueError, match=r"Expected labels for sensitivity='first-order', found images without: the"):
        table_of(model, pixels)
    labelled = [(image, 5.0) for image in pixels]
    assert all(row[(8, 3)] > 0 for row in table_of(model, labelled).table.values())
