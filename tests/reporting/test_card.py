# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import dataclasses
import re
import shlex
from argparse import ArgumentParser

import pytest
from conftest import make_model, random_pixels
from huggingface_hub import ModelCard

from optimum.commands.register.register_mixq import MixQCommand, MixQQuantizeCommand
from optimum_mixq import BitPlan, MixQConfig, MixQQuantizer, demo_model_path
from optimum_mixq.architectures.describe import describe
from optimum_mixq.cli import _read_config
from optimum_mixq.config import GROUPS, SavedState
from optimum_mixq.quant.arithmetics import arithmetic_names
from optimum_mixq.reporting.card import model_card
from optimum_mixq.reporting.command import NAMES_WITH_WORDS, OPTIONS_WITH_WORDS
from optimum_mixq.reporting.comparison import Comparison, Contender
from optimum_mixq.reporting.wording import describe_ends
from optimum_mixq.stages.calibration.rounders import rounder_names
from optimum_mixq.stages.evaluation import Evaluation
from optimum_mixq.stages.reconstruction import budget_names
from optimum_mixq.stages.sensitivity import method_names


FLOAT, PACKED = Evaluation(1000, 0.93, None, None), Evaluation(1000, 0.92, 0.98, 0.0123)
RECORD = {
    "base_model": "me/vit", "calibration": {"dataset": "me/pictures", "images": 32}, "versions": {"torch": "2.13.0"},
}  # fmt: skip
PLAN = BitPlan(
    {"blocks.0.fc1": 4, "blocks.0.fc2": (4, 8)},
    {"budget": {"average_bits": 4.0}, "achieved": {"average_bits": 3.99, "bytes": 1_234_000, "bops": 2_500_000_000}},
)


def card(plan=PLAN, ends="patch embedding and head at 8 bits", **changes):
    config = MixQConfig(bits=4, plan=PLAN.bits, record=RECORD, **changes)
    contenders = (Contender("float", 8.0, 2.0, FLOAT), Contender("quantized", 1.0, None, PACKED))
    comparison = Comparison(contenders, "me/pictures", "test", "a machine")
    return model_card(config, plan, "vit", 1.0, 8.0, "me/vit-mixq4", "vit", comparison, ends=ends)


def test_the_card_says_how_sure_the_choice_of_bits_is():
    predicted = {"damage": 0.02, "standard_error": 0.0012}
    halves = {"images": 64, "excess": 0.01, "other_units": [1, 1]}
    told = dataclasses.replace(PLAN, provenance={**PLAN.provenance, "predicted": predicted, "halves": halves})
    assert (
        "\n\nPredicted damage: 0.02, with a standard error of at most 0.0012; with half of the 64 images, 1 of 2 "
        "layers would have other bits, and the plan would be 1 % worse.\n"
    ) in str(card(plan=told))
    assert "Predicted damage" not in str(card())


def test_the_card_names_the_bits_of_what_is_outside_the_plan():
    for name, words in (
        ("dinov3", "patch embedding at 3 bits"),
        ("vit", "patch embedding and head at 3 bits"),
        ("deit_with_teacher", "patch embedding and heads at 3 bits"),
        ("segformer", "head at 3 bits"),
        ("segmenting_segformer", "nothing that is quantized"),
    ):
        ends = describe_ends(describe(make_model(name)), 3)
        assert ends == words
        assert f"activations at 4 to 8; {words}." in str(card(ends=ends))


def test_the_metadata_can_be_read_back_and_holds_the_result():
    data = ModelCard(str(card())).data
    assert data.base_model == "me/vit" and data.library_name == "transformers"
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("accuracy", 0.92, "me/pictures")
    assert result.dataset_split == "test" and data.model_name == "vit-mixq4"


@pytest.mark.parametrize(
    "fact",
    [
        'from_pretrained("me/vit-mixq4")',
        "import optimum_mixq",
        "| float | 93.00 | 91.25-94.42 |  |  |",
        "| quantized | 92.00 | 90.15-93.53 | 98.00 | 0.0123 |",
        "the same 1000 images (me/pictures, split test)",
        "8.0 x smaller",
        "on a machine: float 2.00 ms",
        "Weights at 4 bits, activations at 4 to 8;",
        "# vit-mixq4\n",
        "Budget: 4 bits per weight on average.",
        "Achieved: 3.99 bits per weight on average, 1.234 MB, 2.500 G bit operations.",
        "| blocks.0.fc2 | 4/8 |",
        "Made with torch 2.13.0.",
    ],
)
def test_the_card_tells(fact):
    assert fact in card().text


def test_the_command_reproduces_the_recipe():
    text = card(seed=3, calibration_samples=64).text
    assert (
        "optimum-cli mixq quantize --model me/vit --dataset me/pictures --output out --bits 4 "
        "--calibration-samples 64 --seed 3"
    ) in text
    assert "MixQConfig(bits=4, calibration_samples=64, seed=3)" in text


def test_every_option_that_the_shell_has_a_word_for_is_in_the_command(tmp_path):
    changes = {
        "size_mb": 2.5, "bops": 1e9, "tie_bits": True, "overrides": {"*.fc2": 8, "*.fc1": (4, 8)},
        "exclude": ("a.*", "b.*"), "candidate_bits": (2, 4, 8), "sensitivity": "gradient",
        "arithmetic": "folded", "rounder": "nearest", "batch_size": 8, "sensitivity_samples": 64,
        "reconstruction": None,
    }  # fmt: skip
    (command,) = (line for line in card(**changes).text.splitlines() if line.startswith("optimum-cli"))
    root = ArgumentParser()
    MixQCommand(root.add_subparsers())
    arguments = root.parse_args(shlex.split(command)[1:])
    assert _read_config(arguments) == MixQConfig(bits=4, **changes)
    assert arguments.batch_size == 8 and arguments.plan == "mixed"


def test_a_model_from_a_folder_goes_by_its_folders_names(tmp_path):
    quantizer = MixQQuantizer.from_pretrained(demo_model_path("vit"))
    config = MixQConfig(bits=4, calibration_samples=4)
    quantizer.quantize(config, random_pixels(quantizer.model, 4), tmp_path / "vit-mixq4", plan="uniform")
    card = ModelCard.load(tmp_path / "vit-mixq4" / "README.md")
    assert card.text.strip().startswith("# vit-mixq4\n") and card.data.tags[-1] == "vit"
    assert 'from_pretrained("vit-mixq4")' in card.text and "--model vit --dataset" in card.text
    assert "PATH" not in card.text and "MODEL" not in card.text


def test_a_recipe_beyond_the_shell_has_no_command():
    text = card(alpha=0.25).text
    assert "optimum-cli" not in text and "MixQConfig(bits=4, alpha=0.25)" in text


def test_a_name_that_was_registered_from_outside_has_no_command():
    assert "optimum-cli" in card(rounder="nearest").text
    text = card(rounder="of somebody's own").text
    assert "optimum-cli" not in text and """MixQConfig(bits=4, rounder="of somebody's own")""" in text


def test_what_was_not_measured_is_left_out(vit, tmp_path):
    config = MixQConfig(bits=4, calibration_samples=8, batch_size=4)
    MixQQuantizer.from_pretrained(vit).quantize(config, random_pixels(vit, 12), tmp_path / "out", plan="uniform")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "## Accuracy" not in text and "model-index" not in text and "uniform bits" in text
    assert re.search(r"Made with optimum-mixq \S+, transformers \S+, torch", text)


def test_the_options_that_the_shell_has_words_for_are_those_of_its_parser():
    parser = ArgumentParser()
    MixQQuantizeCommand.parse_args(parser)
    words = vars(parser.parse_args(["--model=", "--dataset=", "--output="]))
    options = {option.name for group in GROUPS if group is not SavedState for option in dataclasses.fields(group)}
    assert OPTIONS_WITH_WORDS == options & set(words)
    choices = {action.dest: tuple(action.choices) for action in parser._actions if action.choices}
    assert NAMES_WITH_WORDS == {name: names for name, names in choices.items() if name in options}
    registered = {
        "arithmetic": arithmetic_names(), "reconstruction": (*budget_names(), "none"), "rounder": rounder_names(),
        "sensitivity": method_names(),
    }  # fmt: skip
    assert all(set(names) <= set(registered[name]) for name, names in NAMES_WITH_WORDS.items())
