# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
from dataclasses import replace

import pytest
from conftest import make_model, random_pixels

from optimum_mixq import MixQConfig, measurements
from optimum_mixq.artifacts import Known
from optimum_mixq.images import fingerprints
from optimum_mixq.images.batches import Batch
from optimum_mixq.measurements import Measurements
from optimum_mixq.stages.sensitivity import gradients, traced


CONFIG = MixQConfig(bits=4, candidate_bits=(3, 4, 5), sensitivity_samples=4)


def images_of(model):
    return [random_pixels(model, 4)], [Batch(random_pixels(model, 4, seed=1), None, ())]


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
    monkeypatch.setattr(measurements, "are_images_enough", enough)
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


def test_a_run_that_goes_on_says_why_candidates_are_calibrated_again(monkeypatch, tmp_path):
    model, told = make_model("vit"), []
    original = measurements.calibrate_variants
    monkeypatch.setattr(measurements, "calibrate_variants", lambda *given: told.append(given[-1]) or original(*given))
    for _ in range(2):
        _ = Measurements(model, *images_of(model), CONFIG, tmp_path).sensitivity
    assert told == ["Calibrating all candidate bits", "Calibrating all candidate bits again, to go on"]
