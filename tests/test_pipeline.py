# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
from dataclasses import replace

import pytest
import torch
from conftest import make_model, random_pixels

from optimum_mixq import MixQConfig, pipeline
from optimum_mixq.artifacts import BitPlan, Known
from optimum_mixq.images import fingerprints
from optimum_mixq.images.batches import Batch
from optimum_mixq.pipeline import Measurements, choose, choose_plan, finish_choice, quantize_model
from optimum_mixq.stages.allocation import costs
from optimum_mixq.stages.allocation.halves import add_certainty
from optimum_mixq.stages.allocation.propose import objectives
from optimum_mixq.stages.sensitivity import gradients, traced


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
    monkeypatch.setattr("optimum_mixq.pipeline.digest_inputs", lambda *given: calls.append("digest") or {"images": ""})
    choose_plan(model, *images_of(model), CONFIG)
    assert sorted(calls) == ["blank_images", "digest"]


@pytest.mark.parametrize(
    ("change", "same_relevance", "same_sensitivity"),
    [
        ({}, True, True),
        ({"bits": 5, "alpha": 0.5, "compare": False, "batch_size": 3}, True, True),
        ({"score": "signed"}, False, True),
        ({"relevance_samples": 3}, False, True),
        ({"calibration_samples": 200}, True, True),  # bits are chosen with the first 32 of them
        ({"calibration_samples": 20}, True, False),
        ({"ridge": 2.0}, True, False),
        ({"temperature": 1.0}, True, False),
    ],
)
def test_a_measurement_serves_again_exactly_where_what_it_depends_on_is_the_same(
    change, same_relevance, same_sensitivity
):
    model = make_model("vit")
    measured = Measurements(model, *images_of(model), CONFIG)
    known = Known(measured.relevance, measured.sensitivity)
    other = Measurements(model, *images_of(model), replace(CONFIG, **change), known=known)
    assert (other.relevance is known.relevance, other.sensitivity is known.sensitivity) == (
        same_relevance,
        same_sensitivity,
    )


GRADIENT = replace(CONFIG, sensitivity="gradient")


@pytest.fixture
def checked_early(monkeypatch):
    """Ask after two images, and after four, whether they are enough: they are for 4 bits."""
    asked = []

    def enough(relevance, sensitivity, costs, options):
        asked.append((options.bits, sensitivity.images))
        return options.bits == 4

    monkeypatch.setattr(traced, "FIRST_CHECK", 2)
    monkeypatch.setattr(pipeline, "are_images_enough", enough)
    return asked


def test_a_table_that_was_enough_for_one_budget_serves_another_only_where_it_is_enough_too(checked_early, caplog):
    model = make_model("vit")
    known = Known(sensitivity=Measurements(model, *images_of(model), GRADIENT).sensitivity)
    assert known.sensitivity.images == 2 and checked_early == [(4, 2)]
    again = Measurements(model, *images_of(model), replace(GRADIENT, alpha=0.5), known=known)
    assert again.sensitivity is known.sensitivity and not caplog.records
    other = Measurements(model, *images_of(model), replace(GRADIENT, bits=5, candidate_bits=(3, 4, 5)), known=known)
    assert other.sensitivity.images == 4
    assert "is from the first 2 of 4 images, and more are needed: it is measured again" in caplog.text
    every = Measurements(model, *images_of(model), GRADIENT, known=known, every_image=True)
    assert every.sensitivity == other.sensitivity
    # What is from all images serves every budget.
    known, asked = Known(sensitivity=other.sensitivity), len(checked_early)
    assert Measurements(model, *images_of(model), GRADIENT, known=known).sensitivity is other.sensitivity
    assert len(checked_early) == asked


def test_sums_that_were_saved_for_one_budget_go_on_for_another(checked_early, tmp_path):
    model = make_model("vit")
    assert Measurements(model, *images_of(model), GRADIENT, tmp_path).sensitivity.images == 2
    other = Measurements(model, *images_of(model), replace(GRADIENT, bits=5), tmp_path).sensitivity
    assert other.images == 4 and checked_early == [(4, 2), (5, 2)]
    assert other == Measurements(model, *images_of(model), GRADIENT, every_image=True).sensitivity
    assert len(list(tmp_path.glob("sensitivity-*.json"))) == 1


def test_the_number_of_probes_is_in_the_fingerprint(monkeypatch):
    model = make_model("vit")
    known = Known(sensitivity=Measurements(model, *images_of(model), GRADIENT).sensitivity)
    monkeypatch.setattr(gradients.Gradient, "probes", 3)
    other = Measurements(model, *images_of(model), GRADIENT, known=known).sensitivity
    assert (
        other is not known.sensitivity and other.fingerprint["settings"] != known.sensitivity.fingerprint["settings"]
    )


def test_relevance_is_measured_on_the_first_of_the_images_of_sensitivity():
    model = make_model("vit")
    calibration, (batch,) = images_of(model)
    few = Measurements(model, calibration, [batch], replace(CONFIG, relevance_samples=3)).relevance
    alone = Measurements(model, calibration, batch.split(3)[:1], CONFIG).relevance
    assert few.images == 3 and few.scores == alone.scores
    assert Measurements(model, calibration, [batch], CONFIG).relevance.images == 4


def test_every_option_of_calibration_changes_the_fingerprint():
    given = CONFIG.calibration
    digests = {tuple(fingerprints.digest_settings(given).values())}
    changes = {
        "arithmetic": "folded", "calibration_samples": 5, "seed": 1, "ridge": 2.0, "clip": None, "rounder": "nearest",
        "stem_and_head_bits": 4, "softmax": "log2",
    }  # fmt: skip
    for name, value in vars(given).items():
        changed = replace(given, **{name: changes.get(name, not value)})
        digests.add(tuple(fingerprints.digest_settings(changed).values()))
    assert len(digests) == 1 + len(vars(given))


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
    monkeypatch.setattr(pipeline, "CHOOSING_IMAGES", few)
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


def test_a_run_that_goes_on_says_why_candidates_are_calibrated_again(monkeypatch, tmp_path):
    model, told = make_model("vit"), []
    original = pipeline.calibrate_variants
    monkeypatch.setattr(pipeline, "calibrate_variants", lambda *given: told.append(given[-1]) or original(*given))
    for _ in range(2):
        _ = Measurements(model, *images_of(model), CONFIG, tmp_path).sensitivity
    assert told == ["Calibrating all candidate bits", "Calibrating all candidate bits again, to go on"]
