# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import sys
from types import SimpleNamespace

import pytest
from conftest import random_pixels
from transformers.utils import logging

from optimum_mixq import MixQConfig, MixQQuantizer, MixQTrainingConfig
from optimum_mixq.utils import progress
from optimum_mixq.utils.progress import our_bars_alone, progress_bar


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(progress.ProgressLines, "last_line", 0.0)
    return clock


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


def test_every_long_step_shows_the_time_left(vit, capfd, verbosity, monkeypatch):
    logging.set_verbosity_warning()
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    run(vit)
    shown = capfd.readouterr().err
    for step in ("Relevance", "Sensitivity", "Calibrating", "Training"):
        assert f"{step}: 100%" in shown and "<00:00" in shown
    assert "\r" not in shown


@pytest.mark.parametrize("silence", [logging.set_verbosity_error, logging.disable_progress_bar])
def test_nothing_is_shown_to_who_wants_errors_alone(vit, capfd, verbosity, silence):
    silence()
    run(vit)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_a_pipe_gets_a_line_every_few_seconds(clock, capsys, verbosity):
    logging.set_verbosity_warning()
    with progress_bar(10, "Long", "block") as bar:
        for _ in range(10):
            clock.now += 2
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "Long: 30% (3 of 10)", "Long: 60% (6 of 10)", "Long: 90% (9 of 10)", "Long: 100% (10 of 10)",
    ]  # fmt: skip


def test_quick_steps_share_the_lines_of_a_pipe(clock, capsys, verbosity):
    logging.set_verbosity_warning()
    for number in range(4):
        with progress_bar(1, f"Step {number}", "block") as bar:
            clock.now += 2
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["Step 2: 100% (1 of 1)"]


def test_a_terminal_gets_a_bar(capsys, verbosity, monkeypatch):
    logging.set_verbosity_warning()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress_bar(2, "Bar", "block") as bar:
        bar.update(2)
    assert "\rBar: 100%|" in capsys.readouterr().err


def test_our_bars_alone_are_shown_and_cleared_from_a_terminal(capsys, verbosity, monkeypatch):
    logging.set_verbosity_warning()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with our_bars_alone():
        assert not logging.is_progress_bar_enabled()
        with progress_bar(2, "Ours", "block") as bar:
            bar.update(2)
    assert logging.is_progress_bar_enabled()
    shown = capsys.readouterr().err
    assert "Ours: " in shown and shown.endswith("\r") and not shown.endswith("\n")


def test_who_disabled_bars_gets_none_of_ours_alone(capsys, verbosity):
    logging.disable_progress_bar()
    with our_bars_alone(), progress_bar(2, "Ours", "block") as bar:
        bar.update(2)
    assert not logging.is_progress_bar_enabled() and capsys.readouterr().err == ""
