# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The shipped models are trained, small, and keep their accuracy when they are quantized."""

import json

import datasets
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from optimum_mixq import (
    DEMO_MODELS,
    MixQConfig,
    MixQQuantizer,
    demo_images_path,
    demo_model_path,
    describe,
    open_images,
)
from optimum_mixq.stages.evaluation import measure_logits, score


def load(name):
    quantizer = MixQQuantizer.from_pretrained(demo_model_path(name))
    return quantizer.model, quantizer.processor, quantizer


@pytest.mark.parametrize("name", DEMO_MODELS)
def test_a_shipped_model_is_small_and_has_the_parts_of_a_large_one(name):
    assert (demo_model_path(name) / "model.safetensors").stat().st_size <= 2_000_000
    model, _, _ = load(name)
    blocks = [block for block in describe(model).blocks if block.attention is not None]
    assert len(blocks) >= 6
    if name == "swin":
        assert any(block.name.endswith("merging") for block in describe(model).blocks)
        assert any(model.get_submodule(block.module).shift_size for block in blocks)
    if name == "deit":
        assert len(describe(model).heads) == 2


@pytest.mark.parametrize("name", DEMO_MODELS)
def test_a_shipped_model_was_measured_above_91_percent_on_all_test_images(name):
    record = json.loads((demo_model_path(name) / "training.json").read_text())
    assert record["top1"] >= 0.91


@pytest.mark.parametrize("name", DEMO_MODELS)
def test_a_shipped_model_keeps_its_accuracy_at_four_bits_and_reloads(name, tmp_path):
    _, _, quantizer = load(name)
    packed = quantizer.quantize(MixQConfig(bits=4), demo_images_path(), tmp_path / "packed", "uniform")
    scores = quantizer.evaluate(demo_images_path())
    assert scores["float"].images == scores["quantized"].images == 1000
    assert scores["float"].accuracy >= 0.90
    assert scores["quantized"].accuracy >= scores["float"].accuracy - 0.015
    reloaded = type(packed).from_pretrained(tmp_path / "packed").eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path / "packed")
    images = open_images(demo_images_path(), reloaded, processor, "evaluation")
    logits, labels = measure_logits(reloaded, images.batches(range(1000), 32))
    assert score(logits, labels).accuracy == scores["quantized"].accuracy


def test_the_shipped_images_are_small_and_apart():
    files = list(demo_images_path().glob("*.parquet"))
    assert sum(file.stat().st_size for file in files) < 1_000_000
    splits = datasets.load_dataset(str(demo_images_path()))
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 256, "test": 1000}
    assert set(splits["test"]["label"]) == set(range(10))


def test_an_auto_class_loads_the_shipped_vit():
    model = AutoModelForImageClassification.from_pretrained(demo_model_path("vit"), dtype=torch.float32)
    assert model.config.id2label[9] == "Ankle boot"


def test_a_model_that_is_not_shipped_is_said():
    with pytest.raises(ValueError, match="Expected one of the shipped models vit, deit, swin, found 'bert'"):
        demo_model_path("bert")
