# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The shipped models are trained, small, and keep their accuracy when they are quantized, as the demo shows."""

import json
import re
import shlex
import sys
from argparse import ArgumentParser
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import datasets
import pytest
import torch
from conftest import make_model
from transformers import AutoImageProcessor, AutoModelForImageClassification, AutoModelForSemanticSegmentation

from optimum.commands.register.register_mixq import MixQCommand
from optimum_mixq import (
    DEMO_MODELS,
    MixQConfig,
    MixQQuantizer,
    demo_images_path,
    demo_model_path,
    describe,
    open_images,
)
from optimum_mixq.demo.run import check_reload, name_program, run_demo


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
    (pixels,) = [batch.pixel_values for batch in images.batches(range(100), 100)]
    with torch.inference_mode():
        assert torch.equal(reloaded(pixel_values=pixels).logits, packed(pixel_values=pixels).logits)


def test_the_shipped_segmentation_model_is_small_and_was_measured():
    folder = demo_model_path("segformer")
    assert (folder / "model.safetensors").stat().st_size <= 2_000_000
    assert json.loads((folder / "training.json").read_text())["mean_iou"] >= 0.49
    model = AutoModelForSemanticSegmentation.from_pretrained(folder, dtype=torch.float32)
    assert len(describe(model).blocks) == 8 and model.config.id2label[10] == "Boot"


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
    message = "Expected one of the shipped models vit, deit, swin, segformer, found 'bert'"
    with pytest.raises(ValueError, match=message):
        demo_model_path("bert")


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What a small demo of one model wrote: its folder, and the texts of stdout and stderr."""
    folder = tmp_path_factory.mktemp("demo")
    earlier = folder / "vit-mixed-3bit"
    earlier.mkdir()
    (earlier / "of-an-earlier-demo").touch()
    few = {"tie_bits": True, "compare": False, "calibration_samples": 4, "sensitivity_samples": 4}
    size = {"image_size": 32, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_labels": 5}
    output, progress = StringIO(), StringIO()
    with redirect_stdout(output), redirect_stderr(progress), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(folder / "bin" / "optimum-cli")])  # of a .venv that the shell does not know
        run_demo(folder, ["vit"], MixQConfig(bits=3, candidate_bits=(2, 3, 4), **few), 64, 0, size)
    return folder, output.getvalue(), progress.getvalue()


def test_the_demo_ends_with_a_table_of_what_was_packed(shown):
    _, output, _ = shown
    assert re.search(r"^vit    float +\d\d\.\d +3\.64$", output, re.M)
    for kind in ("uniform 3", "mixed 3  "):
        assert re.search(rf"^vit    {kind} +\d\d\.\d  0\.\d{{4}}     0\.\d\d$", output, re.M)


def test_the_demo_shows_no_times_of_models_too_small_to_gain(shown):
    """But those of a larger one, and that its weights are random."""
    _, output, _ = shown
    accuracies, speed = output.split("\n\nSpeed on ")
    assert "ms" not in accuracies and re.match(r"\d+ threads?, of a ViT-S/16 .* Its weights are random", speed)
    float32, bfloat16, packed = (
        float(re.search(rf"^{name} +(\d+\.\d)$", speed, re.M)[1]) for name in ("float32", "bfloat16", "packed 4 bits")
    )
    told = re.search(r"Packed, it is (\d+\.\d) times as fast as in bfloat16, and (\d+\.\d) times .* float32", speed)
    # What is printed is rounded to tenths of a millisecond, of which this small model takes a few.
    assert float(told[1]) == pytest.approx(bfloat16 / packed, rel=0.2, abs=0.1)
    assert float(told[2]) == pytest.approx(float32 / packed, rel=0.2, abs=0.1)


def test_the_demo_names_reports_that_exist(shown):
    folder, output, _ = shown
    reports = re.findall(r"^  (.*/report\.html)$", output, re.M)
    assert reports == [str(folder / "vit-mixed-3bit" / "report.html")]
    assert "<html" in Path(reports[0]).read_text()
    assert not (folder / "vit-mixed-3bit" / "of-an-earlier-demo").exists()


def test_the_demo_ends_with_commands_that_run(shown, capsys):
    folder, output, _ = shown
    evaluate, quantize = [shlex.split(line) for line in output.splitlines() if " mixq " in line]
    assert evaluate[0] == quantize[0] == str(folder / "bin" / "optimum-cli")
    root = ArgumentParser("optimum-cli")
    MixQCommand(root.add_subparsers())
    arguments = root.parse_args([*evaluate[1:], "--samples", "32"])
    arguments.func(arguments).run()
    assert root.parse_args(quantize[1:]).plan == "uniform"
    assert Path(quantize[quantize.index("--model") + 1]) == demo_model_path("vit")
    assert "vit-mixed-3bit: top-1 " in capsys.readouterr().out


def test_the_demo_names_the_program_that_the_shell_finds(tmp_path, monkeypatch):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "optimum-cli").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "one"))
    for path, name in (("one/optimum-cli", "optimum-cli"), ("two/optimum-cli", None), ("pytest", "optimum-cli")):
        monkeypatch.setattr(sys, "argv", [str(tmp_path / path)])
        assert name_program() == (name or str(tmp_path / path))


def test_the_demo_says_at_once_that_something_happens(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("optimum_mixq.cli.run_demo", lambda arguments: print(f"runs in {arguments.output}"))
    root = ArgumentParser("optimum-cli")
    MixQCommand(root.add_subparsers())
    arguments = root.parse_args(["mixq", "demo", "--output", str(tmp_path)])
    arguments.func(arguments).run()
    shown = capsys.readouterr()
    assert shown.err == "Importing torch and transformers ...\n" and shown.out == f"runs in {tmp_path}\n"


def test_the_progress_of_the_demo_is_lines_that_say_when(shown):
    _, _, progress = shown
    steps = re.findall(r"^\[ *\d+ s\] (.*)$", progress, re.M)
    assert len(steps) == 4 and steps[0].startswith("vit (model 1 of 1): measuring") and steps[-1] == "done"
    assert "\r" not in progress and "Loading weights" not in progress


def test_a_packed_model_that_changes_when_it_is_reloaded_ends_the_demo(vit, tmp_path):
    folder = tmp_path / "packed"
    make_model("vit").save_pretrained(folder)
    with torch.no_grad():
        vit.classifier.bias += 1
    with pytest.raises(ValueError, match="packed gives other logits than the model that was saved there"):
        check_reload(vit, folder)
