# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The examples run as their users run them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import ViTForImageClassification

from optimum_mixq import demo_model_path


ROOT = Path(__file__).parents[1]


def run(script, *words, cwd):
    command = [sys.executable, str(ROOT / "examples" / script), *map(str, words)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def shallow_model(tmp_path_factory):
    """The folder of a model with two of the eight blocks of the shipped ViT: a quarter of the work."""
    shipped, folder = demo_model_path("vit"), tmp_path_factory.mktemp("shallow") / "vit"
    model = ViTForImageClassification.from_pretrained(shipped, num_hidden_layers=2, dtype=torch.float32)
    model.save_pretrained(folder)
    shutil.copy(shipped / "preprocessor_config.json", folder)
    return folder


def test_quantize_and_share_writes_a_model_and_its_report(tmp_path, shallow_model, few_images):
    words = ("--model", shallow_model, "--dataset", few_images, "--images", "16")
    out = run("quantize_and_share.py", *words, cwd=tmp_path)
    assert "float: 0.9" in out and "top-1" in out
    assert {"model.safetensors", "report.html", "README.md"} <= {
        path.name for path in (tmp_path / "quantized").iterdir()
    }


def test_a_loop_of_ones_own_trains_resumes_and_packs(tmp_path, shallow_model, few_images):
    words = ("--model", shallow_model, "--dataset", few_images, "--batch-size", "32")
    out = run("image_classification_qat.py", *words, "--epochs", "2", cwd=tmp_path)
    assert "epoch 1: loss" in out and (tmp_path / "trained" / "packed" / "model.safetensors").exists()
    resumed = run(
        "image_classification_qat.py", *words, "--epochs", "2", "--resume-from", "trained/epoch-0", cwd=tmp_path
    )
    assert "epoch 0" not in resumed and "epoch 1: loss" in resumed


def test_choose_bits_by_hand_prints_the_frontier_and_scores(tmp_path, shallow_model, few_images):
    words = ("--model", shallow_model, "--dataset", few_images, "--images", "16")
    out = run("choose_bits_by_hand.py", *words, cwd=tmp_path)
    assert out.count("| yes |") == 5 and "Evaluation(images=64" in out


def test_the_shipped_segmentation_model_is_quantized_on_scenes_of_the_shipped_images(tmp_path):
    out = run("segmentation.py", "--scenes", "32", "--test-scenes", "50", cwd=tmp_path)
    found = {name: float(score) for name, score in re.findall(r"^(\w+): mean IoU ([\d.]+) %", out, flags=re.M)}
    assert found["float"] > 40 and found["quantized"] > found["float"] - 2
    assert "background: " in out and "% of the first scene" in out


def test_features_are_quantized_and_searched(tmp_path, shallow_model, few_images):
    out = run("features.py", "--model", shallow_model, "--dataset", few_images, "--images", "16", cwd=tmp_path)
    assert "cosine distance to float 0.0" in out and out.count("is nearest to images") == 5
    assert "image 0 is nearest to images" in out  # before any other, an image finds itself
