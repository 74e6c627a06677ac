# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Runs that are killed at any moment, and called again, give what an uninterrupted run gives."""

import os
import random
import signal
import subprocess
import sysconfig
import time
from pathlib import Path

import pytest
from conftest import make_model

from optimum_mixq import demo_images_path


PROGRAM = Path(sysconfig.get_path("scripts")) / "optimum-cli"
WORDS = {
    "quantize": ["--bits", "4", "--sensitivity-samples", "64", "--calibration-samples", "8"],
    "train": [
        "--bits", "3", "--plan", "uniform", "--epochs", "3", "--batch-size", "64", "--no-flip",
    ],
    "sweep": ["--bits", "2.5", "4", "--sensitivity-samples", "64"],
}  # fmt: skip


def start(command, model, output):
    words = ["--model", model, "--dataset", demo_images_path(), "--output", output, *WORDS[command]]
    # A session of its own: a kill also reaches what the command started.
    return subprocess.Popen(
        [str(PROGRAM), "mixq", command, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def made_by(output):
    """Return the bytes of what a run makes: packed weights, plans, measurements."""
    names = ["model.safetensors", *(path.name for path in output.glob("*plan*.json")), "mixq_sensitivity.json"]
    return {name: (output / name).read_bytes() for name in names if (output / name).exists()}


def finish(process):
    told = process.communicate()[0]
    assert process.returncode == 0, told
    return told


def check(command, moments, tmp_path, processor, seed):
    make_model("vit").save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    started = time.monotonic()
    finish(start(command, tmp_path / "model", tmp_path / "whole"))
    duration = time.monotonic() - started
    expected = made_by(tmp_path / "whole")
    assert expected
    generator = random.Random(seed)
    for number in range(moments):
        output = tmp_path / f"killed-{number}"
        process = start(command, tmp_path / "model", output)
        try:
            process.wait(generator.uniform(0.3, 1.0) * duration)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if command != "sweep" and output.exists():  # the folder appeared as a whole, right before the kill
            assert made_by(output) == expected
            continue
        finish(start(command, tmp_path / "model", output))
        assert made_by(output) == expected
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_killed_quantization_goes_on_to_the_same_bytes(tmp_path, processor):
    check("quantize", 1, tmp_path, processor, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted(WORDS))
def test_twenty_kills_change_nothing(command, tmp_path, processor):
    check(command, 20, tmp_path, processor, seed=1)
