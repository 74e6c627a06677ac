# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
from dataclasses import replace

import pytest
from conftest import make_model, random_pixels

from optimum_mixq import MixQConfig
from optimum_mixq.artifacts import Known
from optimum_mixq.images import fingerprints
from optimum_mixq.images.batches import Batch
from optimum_mixq.pipeline import Measurements, choose_plan
from optimum_mixq.stages.allocation import costs


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


def test_every_option_of_calibration_changes_the_fingerprint():
    given = CONFIG.calibration
    digests = {tuple(fingerprints.digest_settings(given).values())}
    changes = {
        "arithmetic": "folded", "calibration_samples": 5, "seed": 1, "ridge": 2.0, "clip": None, "rounder": "nearest",
    }  # fmt: skip
    for name, value in vars(given).items():
        changed = replace(given, **{name: changes.get(name, not value)})
        digests.add(tuple(fingerprints.digest_settings(changed).values()))
    assert len(digests) == 1 + len(vars(given))
