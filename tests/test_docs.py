# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What the documents tell people to type is what the program takes."""

import ast
import inspect
import re
import shlex
import subprocess
import sys
import sysconfig
from argparse import ArgumentParser
from pathlib import Path

import pytest

import optimum_mixq
from optimum.commands.register.register_mixq import MixQCommand
from optimum_mixq import MixQConfig, MixQQuantizer, MixQTrainingConfig, demo_images_path, demo_model_path


ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WORDS = {
    "facebook/deit-small-patch16-224": demo_model_path("deit"), "path/to/images": demo_images_path(),
    "MODEL": demo_model_path("deit"), "IMAGES": demo_images_path(),
    "optimum_mixq/demo/models/swin": demo_model_path("swin"), "optimum_mixq/demo/images": demo_images_path(),
}  # fmt: skip


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.S | re.M)


def commands(page):
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("optimum-cli mixq")]


def fill_in(text):
    """Return a text with the models and images that the package ships in the places of its examples'."""
    return re.sub("|".join(sorted(WORDS, key=len, reverse=True)), lambda found: str(WORDS[found[0]]), text)


COMMANDS = [(page, line) for page in PAGES for line in commands(page)]


def test_there_are_commands_to_check():
    assert {page.name for page, _ in COMMANDS} >= {"README.md", "quickstart.md", "choosing-a-budget.md", "training.md"}


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_each_command_of_the_documents_is_one_that_the_program_takes(page, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep").mkdir()  # what the line before it made
    root = ArgumentParser("optimum-cli")
    MixQCommand(root.add_subparsers())
    arguments = root.parse_args(shlex.split(line)[1:])
    assert arguments.func(arguments).COMMAND.name in line


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_the_commands_of_a_document_run_in_their_order(page, tmp_path):
    program = str(Path(sysconfig.get_path("scripts")) / "optimum-cli")
    for line in commands(page):
        words = [program, *shlex.split(fill_in(line))[1:]]
        if words[2] in ("quantize", "sweep", "train"):
            words += ["--sensitivity-samples", "16", "--calibration-samples", "8"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, (line, done.stderr[-2000:])


PYTHON = [(page, block) for page in PAGES for block in blocks(page, "python")]
ATTRIBUTES = set(re.findall(r"self\.(\w+)", inspect.getsource(MixQQuantizer.__init__)))
TAKEN = {"MixQConfig": MixQConfig, "MixQTrainingConfig": MixQTrainingConfig}


@pytest.mark.parametrize(("page", "block"), PYTHON)
def test_the_python_of_the_documents_uses_what_there_is(page, block):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and node.module == "optimum_mixq":
            assert all(hasattr(optimum_mixq, alias.name) for alias in node.names), block
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in TAKEN:
            fields = TAKEN[node.func.id].__dataclass_fields__
            assert all(keyword.arg in fields for keyword in node.keywords), block
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "quantizer":
            assert hasattr(MixQQuantizer, node.attr) or node.attr in ATTRIBUTES, block


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quickstart.md", "training.md"])
def test_the_first_python_of_a_document_runs(name, tmp_path):
    block = blocks(ROOT / "docs" / name, "python")[0]
    lines = [line for line in block.splitlines() if "push_to_hub" not in line]
    code = fill_in("\n".join(lines)).replace("epochs=10", "epochs=1")
    code = re.sub(
        r"MixQConfig\(bits=(\d)\)", r"MixQConfig(bits=\1, sensitivity_samples=16, calibration_samples=8)", code
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
