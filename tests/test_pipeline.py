# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
from dataclasses import replace

import pytest
import torch
from conftest import make_model, random_pixels

from optimum_mixq import MixQConfig, measurements, pipeline
from optimum_mixq.artifacts import BitPlan
from optimum_mixq.images.batches import Batch
from optimum_mixq.measurements import Measurements
from optimum_mixq.pipeline import choose, choose_plan, finish_choice, prepare_for_training, quantize_model
from optimum_mixq.stages.allocation import costs
from optimum_mixq.stages.allocation.halves import add_certainty
from optimum_mixq.stages.allocation.propose import objectives


CONFIG = MixQConfig(bits=4, candidate_bits=(3, 4, 5), sensitivity_samples=4)


def images_of(model):
    return [random_pixels(model, 4)], [Batch(random_pixels(model, 4, seed=1), None, ())]


def count_calls(monkeypatch, module, name, calls):
    original = getattr(module, name)

    def counted(*arguments):
        calls.append(name)
        return original(*arguments)

    monkeypatch.setattr(module, name, counted)


def test_a_plan_is_chosen_from_one_blank_image_and_one_digest_of_weights_and_images(monkeypatch):
    model, calls = make_model("vit"), []
    count_calls(monkeypatch, costs, "blank_images", calls)
    monkeypatch.setattr(measurements, "digest_inputs", lambda *given: calls.append("digest") or {"images": ""})
    choose_plan(model, *images_of(model), CONFIG)
    assert sorted(calls) == ["blank_images", "digest"]


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_what_was_packed_to_be_compared_is_the_model_that_its_plan_gives(name):
    model = make_model(name)
    calibration, images = images_of(model)
    choice = choose(Measurements(model, calibration, images, CONFIG))
    assert choice.packed is not None
    found = finish_choice(choice, model, calibration, CONFIG)
    expected = quantize_model(model, choice.plan, calibration, CONFIG)
    assert found.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(found.state_dict()[key], value) for key, value in expected.state_dict().items())
    pixels = random_pixels(model, 3, seed=2)
    with torch.inference_mode():
        assert torch.equal(found(pixel_values=pixels).logits, expected(pixel_values=pixels).logits)


def test_bits_are_chosen_on_few_calibration_images_and_the_chosen_plan_is_calibrated_on_all(monkeypatch):
    model = make_model("vit")
    calibration, images = images_of(model)
    few = sum(map(len, calibration)) - 1
    monkeypatch.setattr(measurements, "CHOOSING_IMAGES", few)
    measured = Measurements(model, calibration, images, CONFIG)
    choice = choose(measured)
    assert sum(map(len, measured.choosing_images)) == few
    assert torch.equal(torch.cat(measured.choosing_images), torch.cat(calibration)[:few])
    assert choice.packed is None
    found = finish_choice(choice, model, calibration, CONFIG).state_dict()
    expected = quantize_model(model, choice.plan, calibration, CONFIG).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("compare", [True, False])
def test_a_chosen_plan_says_how_sure_it_is_of_the_objective_that_chose_it(compare):
    model = make_model("vit")
    measured = Measurements(model, *images_of(model), replace(CONFIG, compare=compare, alpha=0.25))
    plan = choose(measured).plan
    found, (damage, error) = plan.provenance, measured.sensitivity.plan_damage(plan.bits)
    assert found["predicted"] == {"damage": damage, "standard_error": error} and 0 < error < damage
    objective = objectives(measured.config.budget).get(found.get("chosen", "alpha 0.25"))
    bare = BitPlan(plan.bits)
    certain = add_certainty(bare, measured.relevance, measured.sensitivity, measured.costs, objective).provenance
    assert found.get("halves") == certain.get("halves") and ("halves" in found) == (objective is not None)


def test_plans_with_the_same_bits_are_packed_once(monkeypatch):
    model, calls = make_model("vit"), []
    measured = Measurements(model, *images_of(model), CONFIG)
    count_calls(monkeypatch, pipeline, "calibrate", calls)
    plans = {name: BitPlan.uniform(model, bits) for name, bits in (("one", 4), ("same", 4), ("other", 3))}
    plan, _ = pipeline.compare_plans(measured, plans)
    assert len(calls) == 2 and plan.provenance["compared"]["one"] == plan.provenance["compared"]["same"]
    assert plan.provenance["chosen"] == "one" and plan.bits == plans["one"].bits


def test_training_starts_from_layers_that_mend_nothing_unless_blocks_are_to_learn(monkeypatch):
    model, prepare, asked = make_model("vit"), pipeline.prepare, []

    def watched(model, plan, images, config):
        asked.append(config.reconstruction)
        return prepare(model, plan, images, replace(config, reconstruction=None))

    monkeypatch.setattr(pipeline, "prepare", watched)
    plan, images = BitPlan.uniform(model, 3), [random_pixels(model, 4)]
    starts = [
        prepare_for_training(model, plan, images, replace(CONFIG, reconstruction=way)) for way in ("light", "full")
    ]
    assert asked == [None, "full"]
    assert [start.config.quantization_config.reconstruction for start in starts] == asked
