# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
from conftest import random_pixels
from transformers.utils import logging

from optimum_mixq import MixQConfig, MixQQuantizer, MixQTrainingConfig


@pytest.fixture
def verbosity():
    before = logging.get_verbosity()
    yield
    logging.set_verbosity(before)
    logging.enable_progress_bar()


def run(vit):
    quantizer = MixQQuantizer.from_pretrained(vit)
    pixels = random_pixels(vit, 8)
    quantizer.quantize(MixQConfig(bits=3, calibration_samples=4, sensitivity_samples=4), pixels)
    quantizer.train(pixels, MixQTrainingConfig(epochs=1, batch_size=4))


def test_every_long_step_shows_the_time_left(vit, capfd, verbosity):
    logging.set_verbosity_warning()
    run(vit)
    shown = capfd.readouterr().err
    for step in ("Relevance", "Sensitivity", "Calibrating", "Training"):
        assert f"{step}: 100%" in shown and "<00:00" in shown


@pytest.mark.parametrize("silence", [logging.set_verbosity_error, logging.disable_progress_bar])
def test_nothing_is_shown_to_who_wants_errors_alone(vit, capfd, verbosity, silence):
    silence()
    run(vit)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
