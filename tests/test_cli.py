# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import inspect
import json
import os
import re
import subprocess
import sys
import sysconfig
import time
import zipfile
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from optimum.commands.register.register_mixq import MixQCommand
from optimum_mixq import BitPlan, MixQQuantizer, demo_images_path, demo_model_path
from optimum_mixq.export.attention import ATTENTIONS
from optimum_mixq.export.targets import target_names
from optimum_mixq.export.weights import LAYOUTS
from optimum_mixq.reporting.wording import describe_certainty


PROGRAM = Path(sysconfig.get_path("scripts")) / "optimum-cli"
ROOT = Path(__file__).parents[1]


FEW = ("--calibration-samples", "32")


def run(*words, **options):
    command = [str(PROGRAM), "mixq", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def run_here(*words):
    """Run a command in this process: the imports of another take seconds."""
    root = ArgumentParser()
    MixQCommand(root.add_subparsers())
    arguments = root.parse_args(["mixq", *map(str, words)])
    arguments.func(arguments).run()


def test_help_names_the_commands_without_loading_torch():
    result = run("--help")
    assert result.returncode == 0
    for command in ("quantize", "evaluate", "sweep", "export", "demo"):
        assert command in result.stdout
    script = "import sys, optimum.commands.register.register_mixq; print('torch' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "False"


def test_our_part_of_help_takes_well_under_a_second():
    script = (
        "import time, optimum.commands.base; start = time.perf_counter(); "
        "import optimum.commands.register.register_mixq; print(time.perf_counter() - start)"
    )
    spent = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(spent.stdout) < 0.2


def test_quantize_then_evaluate_from_the_shell(tmp_path):
    output = tmp_path / "packed"
    words = ["--model", demo_model_path("swin"), "--dataset", demo_images_path()]
    result = run("quantize", *words, "--bits", "4/8", "--plan", "uniform", *FEW, "--output", output)
    assert result.returncode == 0, result.stderr
    size = (output / "model.safetensors").stat().st_size / 1e6
    lines = result.stdout.splitlines()
    assert re.fullmatch(
        re.escape(f"{output}: {size:.2f} MB instead of 3.") + r"\d\d MB, in \d+ (s|min \d+ s)", lines[0]
    )
    assert lines[1] == "plan: 4.00 bits per weight on average; weights have 4 bits, activations 8"
    assert lines[2].startswith("next: optimum-cli mixq report --model ") and len(lines) == 3
    config = json.loads((output / "config.json").read_text())
    assert config["quantization_config"]["plan"]["stages.0.blocks.0.fc1"] == [4, 8]
    result = run("evaluate", "--model", output, "--dataset", demo_images_path(), "--samples", 200)
    assert result.returncode == 0, result.stderr
    assert "top-1 9" in result.stdout and "on 200 images (95 % interval" in result.stdout


def test_the_embeddings_of_a_classifier_are_quantized_and_evaluated_from_the_shell(tmp_path, capsys):
    output, model = tmp_path / "packed", demo_model_path("vit")
    words = ["--model", model, "--dataset", demo_images_path(), "--task", "image-feature-extraction"]
    result = run("quantize", *words, "--plan", "uniform", *FEW, "--output", output)
    assert result.returncode == 0, result.stderr
    assert json.loads((output / "config.json").read_text())["architectures"] == ["ViTModel"]
    result = run(
        "report", "--model", output, "--float-model", model, "--dataset", demo_images_path(), "--samples", 200
    )
    assert result.returncode == 0, result.stderr
    assert re.search(r"float: 3\.\d\d MB, nearest-neighbour accuracy \d\d\.\d\d % on 200 images", result.stdout)
    run_here("evaluate", "--model", output, "--dataset", demo_images_path(), "--samples", 200)
    told = capsys.readouterr().out
    assert "nearest-neighbour accuracy" in told and "on 200 images (95 % interval" in told


def test_a_mixed_plan_keeps_its_budget_from_the_shell(tmp_path):
    output = tmp_path / "packed"
    words = ["--model", demo_model_path("vit"), "--dataset", demo_images_path(), "--output", output]
    result = run("quantize", *words, "--bits", "3.5", "--sensitivity-samples", 32, *FEW)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 5 and "bits per weight on average" in lines[1]
    assert re.match(r"distance to the float model: 0\.\d{4}(, 0\.\d\d times that of uniform bits)? \(on", lines[2])
    plan = json.loads((output / "mixq_plan.json").read_text())
    assert lines[3] == describe_certainty(BitPlan.load(output / "mixq_plan.json"))[0]
    halves = "; with half of the 32 images, .*" if "halves" in plan["provenance"] else ""
    assert re.fullmatch(rf"predicted damage: [\d.e-]+, with a standard error of at most [\d.e-]+{halves}", lines[3])
    assert 3.3 < plan["provenance"]["achieved"]["average_bits"] <= 3.5
    assert len(set(map(str, plan["bits"].values()))) > 1
    saved = json.loads((output / "config.json").read_text())["quantization_config"]["plan"]
    assert {unit: bits[0] if bits[0] == bits[1] else bits for unit, bits in saved.items()} == plan["bits"]
    assert (output / "mixq_relevance.json").exists() and (output / "mixq_sensitivity.json").exists()
    assert not list(tmp_path.glob(".packed*"))


def test_a_sweep_writes_plans_that_cost_more_and_hurt_less(tmp_path):
    words = ["--model", demo_model_path("deit"), "--dataset", demo_images_path(), "--output", tmp_path / "sweep"]
    result = run("sweep", *words, "--bits", 3, 4, 5, "--sensitivity-samples", 16)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("| average bits |") and result.stdout.count("| yes |") == 3
    plans = [json.loads((tmp_path / "sweep" / f"plan-{bits}.json").read_text())["provenance"] for bits in (3, 4, 5)]
    assert [plan["achieved"]["bytes"] for plan in plans] == sorted(plan["achieved"]["bytes"] for plan in plans)
    scores = [plan["objective"] for plan in plans]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 3
    assert (tmp_path / "sweep" / "frontier.svg").read_text().count("<circle") == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "--model", "{model}", "--dataset", "./nowhere"], "There is no folder nowhere"),
        (["quantize", "--model", "{model}", "--dataset", "{images}", "--output", "{full}"], "is not an empty folder"),
        (
            [
                "quantize", "--model", "{model}", "--dataset", "{images}", "--output", "new",
                "--split", "valid",
            ],
            "There is no split 'valid'",
        ),
    ],
)  # fmt: skip
def test_what_a_person_can_mend_is_one_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("here")
    places = {"model": demo_model_path("vit"), "images": demo_images_path(), "full": tmp_path / "full"}
    with pytest.raises(SystemExit) as stopped:
        run_here(*(word.format(**places) for word in words))
    told = stopped.value.code  # which Python prints, before it exits with 1
    assert told.startswith("optimum-cli mixq: ") and message in told and "\n" not in told
    assert not (tmp_path / "new").exists()


def test_a_report_is_written_beside_the_model(tmp_path, monkeypatch, capsys):
    model, images = demo_model_path("vit"), demo_images_path()
    words = ("--model", model, "--dataset", images, "--output", "out", "--plan", "uniform", "--bits", "3", *FEW)
    run("quantize", *words, cwd=tmp_path, check=True)
    words = ("--model", "out", "--dataset", images, "--float-model", model, "--samples", "100")
    lines = run("report", *words, cwd=tmp_path, check=True).stdout.splitlines()
    assert lines[0].startswith("float: 3.64 MB, top-1 9") and lines[1].startswith("uniform 3: 0.")
    assert lines[2] == "The report is out/report.html" and (tmp_path / "out" / "report.html").exists()
    assert "## Accuracy" in (tmp_path / "out" / "README.md").read_text()
    reported = json.loads((tmp_path / "out" / "report.json").read_text())["contenders"][-1]["evaluation"]["accuracy"]
    monkeypatch.chdir(tmp_path)
    run_here("evaluate", "--model", "out", "--dataset", images, "--samples", "100")
    assert f"top-1 {100 * reported:.2f} % on 100 images" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="optimum-cli mixq: Expected a float model, found one that is quantized alr"):
        run_here("quantize", "--model", "out", "--dataset", images, "--output", "twice")
    lost = run("report", "--model", "out", "--dataset", images)
    assert lost.returncode == 1
    assert "out does not say which float model it was made from: name it (--float-model)" in lost.stderr


def test_a_packed_model_is_exported_from_the_shell_and_runs_in_its_engine(tmp_path):
    import onnxruntime

    packed = ROOT / "tests" / "checkpoints" / "vit-mixed"
    result = run("export", "--model", packed, "--to", "onnx", "--output", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = re.fullmatch(
        r"out: 0\.\d\d MB for onnx; logits of 8 generated images off by \S+ % of their spread, \S+ % allowed; "
        r"(\d+) of (\d+) products are 8-bit integers\n",
        result.stdout,
    )
    assert found is not None and found[1] == found[2]
    expected = load_file(ROOT / "tests" / "checkpoints" / "expected.safetensors")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"pixel_values": expected["pixel_values"]})
    assert np.abs(logits - expected["vit-mixed"]).mean() < 0.3 * expected["vit-mixed"].std()
    again = run("export", "--model", demo_model_path("vit"), "--to", "onnx", "--output", "float", cwd=tmp_path)
    assert again.returncode == 1 and not (tmp_path / "float").exists()
    assert "Expected a model that optimum-mixq quantized in" in again.stderr and "Traceback" not in again.stderr


def test_the_words_of_an_export_are_what_is_registered():
    root = ArgumentParser("optimum-cli")
    MixQCommand(root.add_subparsers())
    words = ["mixq", "export", "--model", "m", "--output", "o", "--to"]
    for target in target_names():
        assert root.parse_args([*words, target]).to == target
    for attention in ATTENTIONS:
        assert root.parse_args([*words, "onnx", "--attention", attention]).attention == attention
    for layout in LAYOUTS:
        assert root.parse_args([*words, "onnx", "--weights", layout]).weights == layout
    chosen = root.parse_args([*words, "onnx"])
    defaults = inspect.signature(MixQQuantizer.export).parameters
    for option in ("weights", "attention", "image_size", "dataset", "split"):
        assert getattr(chosen, option) == defaults[option].default


def test_training_from_the_shell_says_how_each_epoch_went(tmp_path):
    lines = run(
        "train", "--model", demo_model_path("deit"), "--dataset", demo_images_path(), "--output", "out", "--bits", "2",
        "--plan", "uniform", "--calibration-samples", "32", "--epochs", "1", "--evaluate", "--no-flip",
        cwd=tmp_path, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert re.fullmatch(r"epoch 0: loss \d\.\d{4}, top-1 \d\d\.\d\d %, \d+ s, kept", lines[-1])
    assert (tmp_path / "out" / "model.safetensors").exists()


INTERRUPTED = """
import os, signal, sys
from argparse import ArgumentParser
from importlib import abc
from optimum.commands.register.register_mixq import MixQCommand

class Interrupt(abc.MetaPathFinder):
    "Presses Ctrl-C when a module is imported."
    def find_spec(self, name, path, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
sys.meta_path.insert(0, Interrupt())
root = ArgumentParser()
MixQCommand(root.add_subparsers())
arguments = root.parse_args(["mixq", *sys.argv[2:]])
arguments.func(arguments).run()
"""
GOES_ON = "stopped. The same command goes on from what was measured."
NOTHING = "stopped; nothing was written."


@pytest.mark.parametrize(
    ("module", "words", "told"),
    [
        ("torch", ["evaluate", "--model", "{model}", "--dataset", "{images}"], NOTHING),
        ("datasets", ["evaluate", "--model", "{model}", "--dataset", "{images}"], NOTHING),
        ("datasets", ["quantize", "--model", "{model}", "--dataset", "{images}", "--output", "new"], GOES_ON),
        (
            "datasets",
            ["quantize", "--model", "{model}", "--dataset", "{images}", "--output", "new", "--plan", "uniform"],
            NOTHING,
        ),
        (
            "datasets",
            "quantize --model {model} --dataset {images} --output new --plan uniform --reconstruction full".split(),
            GOES_ON,
        ),
        ("datasets", ["sweep", "--model", "{model}", "--dataset", "{images}", "--output", "new"], GOES_ON),
        ("torch", ["report", "--model", "{model}", "--dataset", "{images}"], NOTHING),
        ("torch", ["export", "--model", "{model}", "--to", "onnx", "--output", "new"], NOTHING),
        ("torch", ["demo", "--output", "new"], "stopped. What was finished is in new."),
    ],
)
def test_a_command_that_is_stopped_ends_in_one_true_line(module, words, told, tmp_path):
    places = {"model": demo_model_path("vit"), "images": demo_images_path()}
    command = [sys.executable, "-c", INTERRUPTED, module, *(word.format(**places) for word in words)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert result.returncode == 130, result.stderr
    assert result.stderr.strip().splitlines()[-1] == f"optimum-cli mixq: {told}"
    assert "Traceback" not in result.stderr and result.stdout == ""


def test_a_wheel_holds_the_models_the_images_and_the_command(tmp_path):
    started = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for model in ("vit", "deit", "swin", "segformer"):
        for file in ("model.safetensors", "config.json", "preprocessor_config.json"):
            assert f"optimum_mixq/demo/models/{model}/{file}" in names
    assert {"optimum_mixq/demo/images/train.parquet", "optimum_mixq/demo/images/test.parquet"} <= names
    assert "optimum/commands/register/register_mixq.py" in names and "optimum_mixq/quant/grids.py" in names
    assert {"optimum_mixq/reporting/page.css", "optimum_mixq/reporting/page.js"} <= names
    # PEP 420: an __init__.py here would hide the other packages of the namespace.
    assert not {"optimum/__init__.py", "optimum/commands/__init__.py"} & names
    assert not any(name.startswith(("tests/", "benchmarks/", "examples/")) for name in names)
    assert time.monotonic() - started < 120
