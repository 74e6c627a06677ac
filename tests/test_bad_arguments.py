# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Bad words, configurations and files: each ends in one clear line, and none in another exception."""

import dataclasses
import json
import math
from argparse import ArgumentParser

import pytest
from conftest import make_model

from optimum.commands.register.register_mixq import SWEEP_WIDTHS, MixQCommand
from optimum_mixq import BitPlan, MixQConfig, MixQTrainingConfig, demo_images_path, demo_model_path
from optimum_mixq.architectures.describe import describe
from optimum_mixq.artifacts import LayerRelevance, SensitivityTable
from optimum_mixq.quantizer import SWEEP
from optimum_mixq.stages.sensitivity import method_names
from optimum_mixq.tasks.base import _tasks


@pytest.fixture(scope="module")
def parser():
    root = ArgumentParser("optimum-cli")
    MixQCommand(root.add_subparsers())
    return root


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    (folder / "empty").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "file").write_text("here")
    (folder / "plan.json").write_text('{"bits": {"blocks.0.fc9": 4}}')
    return {
        "model": demo_model_path("vit"), "images": demo_images_path(), "empty": folder / "empty",
        "full": folder / "full", "file": folder / "full" / "file", "plan": folder / "plan.json",
        "new": folder / "new",
    }  # fmt: skip


QUANTIZE = "quantize --model {model} --dataset {images} --output {new}"
TRAIN = "train --model {model} --dataset {images} --output {new}"
SWEEP_WORDS = "sweep --model {model} --dataset {images} --output {new}"
EVALUATE = "evaluate --model {model} --dataset {images}"
REPORT = "report --model {model} --dataset {images}"
EXPORT = "export --model {model} --output {new}"

BITS = "argument --bits: Expected 2 to 8, an average such as 3.5, weights/activations such as 4/8, or none; found"
AVERAGES = "argument --bits: Expected averages of 2 to 6, what units choose from; found"
OVERRIDES = (
    "argument --overrides: Expected PATTERN=BITS with 2 to 8 bits, such as '*.fc2=8' or 'blocks.0.*=4/8'; found"
)
WRONG_WORDS = [
    *((f"{QUANTIZE} --bits {bits}", f"{BITS} '{bits}'")
      for bits in ("four", "1", "9", "0", "4/4/4", "4/9", "4/", "/4", "4/x", "nan", "inf", "1.9", "8.1", "3.x")),
    *((f"{TRAIN} --bits {bits}", f"{BITS} '{bits}'") for bits in ("1", "4/4/4", "3-4")),
    *((f"{SWEEP_WORDS} --bits 2.5 {bits}", f"{AVERAGES} '{bits}'")
      for bits in ("9", "1", "6.5", "nan", "inf", "x", "4/4", "none")),
    (f"{SWEEP_WORDS} --bits", "argument --bits: expected at least one argument"),
    (EXPORT, "the following arguments are required: --to"),
    (f"{EXPORT} --to tensorrt", "argument --to: invalid choice: 'tensorrt'"),
    (f"{EXPORT} --to onnx --weights int4", "argument --weights: invalid choice: 'int4'"),
    (f"{EXPORT} --to onnx --attention float", "argument --attention: invalid choice: 'float'"),
    *((f"{QUANTIZE} --size-mb {size}", f"argument --size-mb: Expected a positive number, found '{size}'")
      for size in ("0", "nan", "inf", "six", "6MB")),
    *((f"{QUANTIZE} --bops {bops}", f"argument --bops: Expected a positive number, found '{bops}'")
      for bops in ("0", "nan", "1e999", "many")),
    *((f"{QUANTIZE} --overrides {rule}", f"{OVERRIDES} '{rule}'")
      for rule in ("*.fc2", "=8", "*.fc2=", "*.fc2:8", "*.fc2=3.5", "*.fc2=none", "*.fc2=9")),
    *((f"{QUANTIZE} --candidate-bits {widths}",
       f"argument --candidate-bits: Expected widths of 2 to 8 such as 3,4,5,6; found '{widths}'")
      for widths in ("3,", "1,2", "4-6", "x", "9")),
    (f"{QUANTIZE} --plan unform", "argument --plan: Expected mixed, uniform or the file of a plan; there is no file"),
    (f"{QUANTIZE} --plan {{empty}}", "argument --plan: Expected mixed, uniform or the file of a plan"),
    (f"{TRAIN} --plan no.json", "argument --plan: Expected mixed, uniform or the file of a plan"),
    (f"{QUANTIZE} --measured nowhere", "argument --measured: There is no folder 'nowhere'"),
    (f"{TRAIN} --measured {{file}}", "argument --measured: There is no folder"),
    *((f"{QUANTIZE} --{option} {count}", f"argument --{option}: Expected a whole number from 1, found '{count}'")
      for option in ("calibration-samples", "sensitivity-samples", "batch-size")
      for count in ("0", "2.5", "x", "1e3")),
    (f"{QUANTIZE} --calibration-samples -3", "argument --calibration-samples: Expected a whole number from 1"),
    *((f"{QUANTIZE} --seed {seed}", f"argument --seed: Expected a whole number from 0, found '{seed}'")
      for seed in ("-1", "0.5", "x", str(2**63))),
    (f"{QUANTIZE} --arithmetic fast", "argument --arithmetic: invalid choice: 'fast'"),
    (f"{QUANTIZE} --rounder guessed", "argument --rounder: invalid choice: 'guessed'"),
    (f"{QUANTIZE} --reconstruction heavy", "argument --reconstruction: invalid choice: 'heavy'"),
    *((f"{EVALUATE} --samples {count}", f"argument --samples: Expected a whole number from 1, found '{count}'")
      for count in ("0", "-5", "all")),
    (f"{REPORT} --samples 0", "argument --samples: Expected a whole number from 1, found '0'"),
    (f"{REPORT} --frontier some", "argument --frontier: Expected a whole number from 0, found 'some'"),
    *((f"{TRAIN} --epochs {count}", f"argument --epochs: Expected a whole number from 1, found '{count}'")
      for count in ("0", "1.5", "ten")),
    *((f"{TRAIN} --{option} {rate}", f"argument --{option}: Expected a positive number, found '{rate}'")
      for option in ("learning-rate", "step-learning-rate") for rate in ("0", "-1", "nan", "fast")),
    *((f"{TRAIN} --distillation {share}", f"argument --distillation: Expected a number from 0 to 1, found '{share}'")
      for share in ("1.5", "-0.1", "nan", "half")),
    (f"{TRAIN} --mixed-precision fp8", "argument --mixed-precision: invalid choice: 'fp8'"),
    ("quantize --model {model} --dataset {images}", "the following arguments are required: --output"),
    ("quantize --dataset {images} --output {new}", "the following arguments are required: --model"),
    ("sweep --model {model} --output {new}", "the following arguments are required: --dataset"),
    (f"{QUANTIZE} --bit 4 --fast", "unrecognized arguments: --fast"),
    ("quantise --model {model}", "invalid choice: 'quantise'"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), WRONG_WORDS)
def test_wrong_words_are_refused_before_anything_is_imported_or_run(words, message, parser, places, capsys):
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["mixq", *(word.format(**places) for word in words.split())])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not places["new"].exists()


WRONG_RUNS = [
    (f"{QUANTIZE} --bits none", "Expected a budget: bits, size_mb or bops, found None for all of them"),
    (f"{QUANTIZE} --device cudaa", "There is no device 'cudaa' on this machine"),
    (f"{QUANTIZE} --measured {{empty}}", "Expected a folder with measurements (mixq_relevance.json, mixq_sens"),
    (f"{QUANTIZE} --bits 3.5 --plan uniform", "Expected whole bits for a uniform plan, found 3.5"),
    (f"{QUANTIZE} --plan {{plan}}", "The plan names the unit 'blocks.0.fc9', which the model does not have"),
    (f"{QUANTIZE} --plan {{file}}", "is no JSON"),
    (f"{QUANTIZE} --split valid", "There is no split 'valid'"),
    ("quantize --model {empty} --dataset {images} --output {new}", "{empty}"),
    ("quantize --model ./nowhere --dataset {images} --output {new}", "./nowhere"),
    ("quantize --model {model} --dataset ./nowhere --output {new}", "There is no folder nowhere"),
    ("quantize --model {model} --dataset {images} --output {full}", "exists and is not an empty folder"),
    ("quantize --model {model} --dataset {images} --output {file}", "exists and is not an empty folder"),
    ("quantize --model {model} --dataset {images} --output {file}/x", "cannot be written (it is a file)"),
    ("quantize --model {model} --dataset {images} --output {file}/x/y", "cannot be written"),
    ("quantize --model {model} --dataset {images} --output /proc/x/y", "cannot be written"),
    ("train --model {model} --dataset {images} --output {file}/x", "cannot be written"),
    ("sweep --model {model} --dataset {images} --output {file}", "cannot be written (it is a file)"),
    ("sweep --model {model} --dataset {images} --output {file}/x", "cannot be written"),
    ("report --model {model} --dataset {images} --output {file}/x", "cannot be written"),
    ("report --model {model} --dataset {images} --output {new}", "that optimum-mixq quantized in"),
    ("report --model me/nowhere --dataset {images}", "is no folder to write the report into: name one with --output"),
    ("demo --output {file}", "cannot be written"),
    ("evaluate --model ./nowhere --dataset {images}", "./nowhere"),
    ("evaluate --model {model} --dataset {images} --samples 5000", "Expected at least 5000 images, found 1000"),
    ("evaluate --model {model} --dataset {images} --device tpu", "There is no device 'tpu'"),
]


@pytest.mark.parametrize(("words", "message"), WRONG_RUNS)
def test_what_cannot_be_run_ends_in_one_line(words, message, parser, places, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments = parser.parse_args(["mixq", *(word.format(**places) for word in words.split())])
    with pytest.raises(SystemExit) as ended:
        arguments.func(arguments).run()
    line = str(ended.value.code)
    assert line.startswith("optimum-cli mixq: ") and "\n" not in line
    assert message.format(**places) in line
    assert not (places["new"] / "model.safetensors").exists()


WIDTH_OR_PAIR = "a width of 2 to 8, or (weight bits, activation bits)"
SWITCHES = [field.name for field in dataclasses.fields(MixQConfig) if field.type == "bool" or field.type is bool]
NO_NUMBER = (math.nan, math.inf, -math.inf, "1", True, None, (1,))
WRONG_OPTIONS = {
    "bits": ("4", True, 1, 9, 4.0j, math.nan, (4,), (4, 4, 4), (4, "8"), (True, 4), [4], {}, 1.5, 8.5, b"4"),
    "size_mb": (0, -1, math.nan, math.inf, "6", True, (6,), 10**400),
    "bops": (0, -1, math.nan, math.inf, "1e9", True),
    "candidate_bits": ((), [], 4, "34", (4, 4.5), (1, 4), (4, 9), (4, True), (4, "5"), {3, 4}),
    "overrides": (None, "*.fc2=8", [("*.fc2", 8)], {"*": 9}, {"*": 4.5}, {"*": "8"}, {"*": (4,)}, {"*": True}, {8: 8}),
    "exclude": ("*.fc2", None, (8,), {"*.fc2"}, [None], 3),
    "alpha": (-1, *NO_NUMBER),
    "temperature": (0, -1, *NO_NUMBER),
    "ridge": (0, -1, *NO_NUMBER),
    "clip": (0, -1, "often", math.nan, True, (2,)),
    "baseline": (1, 9, 8.0, "8", None, True, (8, 8)),
    "seed": (-1, 0.5, "0", None, True, 2**63),
    "calibration_samples": (0, -1, 2.5, "32", None, True),
    "sensitivity_samples": (0, -1, 2.5, "256", None, True),
    "batch_size": (0, -1, 2.5, "32", None, True),
    "arithmetic": ("fast", None, 1, ["column"]),
    "softmax": ("", "log", None, 2, ["log2"]),
    "score": ("", None, 1, "Absolute"),
    "relevance_stabiliser": (-1, *NO_NUMBER),
    "relevance_samples": (0, -1, 2.5, "64", None, True),
    "reconstruction": ("", "slow", 1, True),
    "reconstruction_loss": ("", "kl", None, 1),
    "stem_and_head_bits": (1, 9, None, True, "4"),
    "rounder": ("", "guessed", 1, True),
    "metric": ("KL", None, 1),
    "sensitivity": ("guessed", None, 1),
    "solver": ("gurobi", None, 1),
    "plan": ("uniform", [4], 4),
    "record": ("me", [1]),
    "digests": (4, ["a"]),
    "quant_method": ("gptq", None),
    "format_version": (0, 2, "1", None),
    **dict.fromkeys(SWITCHES, (0, 1, "yes", None)),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG_OPTIONS.items() for value in values]
)
def test_a_wrong_option_is_refused_by_name(name, value):
    with pytest.raises(ValueError) as raised:
        MixQConfig(**{name: value})
    assert str(raised.value).startswith(f"Expected {name}") and "\n" not in str(raised.value)
    assert ", found " in str(raised.value)


def test_every_option_has_wrong_values_here():
    assert set(WRONG_OPTIONS) == {field.name for field in dataclasses.fields(MixQConfig)}
    assert {"tie_bits", "compare", "trainable"} <= set(SWITCHES)


@pytest.mark.parametrize("change", [{"bits": "x"}, {"seed": -1}])
def test_what_a_loader_passes_beside_a_saved_configuration_is_checked_too(change):
    with pytest.raises(ValueError, match=f"Expected {next(iter(change))} to be"):
        MixQConfig.from_dict(MixQConfig().to_dict(), **change)


@pytest.mark.parametrize("config", [MixQConfig, MixQTrainingConfig])
def test_an_option_that_does_not_exist_is_a_type_error_of_python(config):
    with pytest.raises(TypeError, match="unexpected keyword argument 'bitz'"):
        config(bitz=3)


GOOD = {"blocks.0.qkv": 4}
WRONG_PLANS = [
    (b"", "is no JSON"),
    (b"{", "is no JSON"),
    (b'{"bits": {"blocks.0.qkv": 4}', "is no JSON"),
    (b"\xff\xfe\x00", "is no JSON"),
    (b"null", "has no 'bits'"),
    (b"[]", "has no 'bits'"),
    (b"4", "has no 'bits'"),
    (b"{}", "has no 'bits'"),
    (b'{"bits": null}', "has no 'bits'"),
    (b'{"bits": [4, 4]}', "has no 'bits'"),
    (b'{"bits": "4"}', "has no 'bits'"),
    *((json.dumps({"bits": {"blocks.0.qkv": bits}}).encode(), "Expected 2 to 8 bits for 'blocks.0.qkv'")
      for bits in (1, 9, 4.0, 4.5, "4", None, True, [], [4], [4, 4, 4], [4, 9], [4, "4"], [True, 4], {})),
    (b'{"bits": {"blocks.0.qkv": NaN}}', "Expected 2 to 8 bits for 'blocks.0.qkv'"),
    (json.dumps({"bits": GOOD, "format": 2}).encode(), "has plan format 2, this release reads 1"),
    (json.dumps({"bits": GOOD, "format": None}).encode(), "has plan format None"),
    (json.dumps({"bits": GOOD, "provenance": 3}).encode(), "has a 'provenance' that is no object"),
    (json.dumps({"bits": GOOD, "provenance": None}).encode(), "has a 'provenance' that is no object"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), WRONG_PLANS)
def test_a_broken_plan_is_refused_with_what_is_wrong(content, message, tmp_path):
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(ValueError) as raised:
        BitPlan.load(tmp_path / "plan.json")
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ({}, "says nothing about 12 units of the model"),
        ({"blocks.0.qkv": 4}, "says nothing about 11 units of the model"),
        ({"blocks.0.fc3": 4}, "names the unit 'blocks.0.fc3', which the model does not have: did you mean"),
        ({"stages.0.reduction": 4}, "names the unit 'stages.0.reduction'"),
        ({"": 4}, "names the unit ''"),
    ],
)
def test_a_plan_of_another_model_is_refused_with_the_unit(bits, message):
    model = make_model("vit")
    units = len(describe(model).units)
    with pytest.raises(ValueError) as raised:
        BitPlan(bits).check_fits(describe(model))
    assert message.replace("12", str(units)).replace("11", str(units - 1)) in str(raised.value)


@pytest.mark.parametrize("kind", [LayerRelevance, SensitivityTable])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[]", b"{}", b"3", b'{"table": 3}', b'{"scores": {}, "x": 1}']
)
def test_broken_measurements_are_refused_with_what_to_do(kind, content, tmp_path):
    (tmp_path / "measured.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"measured\.json (is no JSON|holds no) .*: delete it and measure again"):
        kind.load(tmp_path / "measured.json")


def test_a_sweep_checks_averages_against_what_its_units_choose_from():
    assert SWEEP.candidate_bits == SWEEP_WIDTHS


def commands_of(parser):
    (commands,) = (action for action in parser._actions if action.choices)
    (mixq,) = (action for action in commands.choices["mixq"]._actions if action.choices)
    return mixq.choices


def test_the_shell_takes_every_method_of_sensitivity(parser):
    actions = commands_of(parser)["quantize"]._actions
    (choices,) = (action.choices for action in actions if "--sensitivity" in action.option_strings)
    assert set(choices) == set(method_names())


def test_the_shell_takes_every_task(parser):
    for command in ("quantize", "evaluate"):
        actions = commands_of(parser)[command]._actions
        (choices,) = (action.choices for action in actions if "--task" in action.option_strings)
        assert set(choices) == {task.hub_task for task in _tasks}


def test_help_tells_every_default(parser):
    for command in commands_of(parser).values():
        told = {action.option_strings[0]: action.help for action in command._actions if action.option_strings}
        for action in command._actions:
            if action.default not in (None, False, [], "==SUPPRESS=="):
                assert "%(default)s" in told[action.option_strings[0]], action.option_strings
