# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Imports run one way: from a room to those above it in the list."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import optimum_mixq


PACKAGE = Path(optimum_mixq.__file__).parent
DOCS = Path(__file__).parents[1] / "docs"
# docs/pipeline.md, "The rooms", has the same list. Each room imports only from those before it.
ROOMS = (
    "utils", "kernels", "quant", "config", "architectures", "artifacts", "images", "tasks", "stages", "integration",
    "measurements", "pipeline", "export", "reporting", "quantizer", "demo", "cli",
)  # fmt: skip
# What is imported only when it is asked for: the configuration checks names that higher rooms register.
ASKED_LATE = {
    ("config.options", "stages.relevance.scores"),
    ("config.options", "stages.sensitivity"),
    ("config.options", "stages.reconstruction"),
    ("config.mixq", "stages.calibration.rounders"),
}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py"
}


def room(name):
    return name.split(".")[0]


def stage(name):
    return name.split(".")[1] if name.startswith("stages.") else None


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "optimum_mixq":
            base = node.module.removeprefix("optimum_mixq").lstrip(".")
            for alias in node.names:
                joined = f"{base}.{alias.name}".lstrip(".")
                yield joined if joined in MODULES else base
        elif isinstance(node, ast.Import):
            yield from (name.name[13:] for name in node.names if name.name.startswith("optimum_mixq."))


def outside_imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)


def test_every_module_has_a_room():
    assert {room(name) for name in MODULES} == set(ROOMS)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_one_way(name):
    order = ROOMS.index(room(name))
    wrong = {target for target in imported_modules(MODULES[name]) if target and ROOMS.index(room(target)) > order}
    assert wrong <= {target for asking, target in ASKED_LATE if asking == name}


def test_no_file_leads_back_to_itself():
    arrows = {name: set(imported_modules(path)) - {"", name} for name, path in MODULES.items()}
    while leaves := [name for name, found in arrows.items() if not found & arrows.keys()]:
        for name in leaves:
            del arrows[name]
    assert {name: sorted(found & arrows.keys()) for name, found in arrows.items()} == {}


def test_no_stage_imports_another():
    wrong = [
        f"{name} imports {target}"
        for name, path in MODULES.items()
        for target in imported_modules(path)
        if stage(name) and stage(target) and stage(name) != stage(target)
    ]
    assert wrong == []


def test_arithmetic_knows_no_models_and_kernels_know_only_torch():
    rules = "architectures.rules"
    for name, path in MODULES.items():
        if room(name) in ("quant", "kernels") or name == rules:
            assert not set(outside_imports(path)) & {"transformers", "accelerate", "datasets"}, name
        if room(name) == "kernels":
            assert {room(target) for target in imported_modules(path)} <= {"kernels"}, name


def test_what_any_room_may_use_stays_small():
    assert len([name for name in MODULES if room(name) == "utils"]) <= 1 + 8


def test_names_of_families_and_their_modules_stand_in_one_folder():
    names = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "layernorm_before",
        "layernorm_after",
        '"vit"',
        '"deit"',
        '"swin"',
    )
    for name, path in MODULES.items():
        if not name.startswith("architectures.families") and room(name) != "demo":
            assert not any(word in path.read_text() for word in names), name


def test_the_rooms_in_the_docs_are_these_in_this_order():
    text = (DOCS / "pipeline.md").read_text().split("## The rooms")[1]
    assert tuple(re.findall(r"^\| `(\w+)[/.\w]*` \|", text, flags=re.M)) == ROOMS


def test_importing_the_package_loads_no_heavy_dependency_that_it_may_not_need():
    heavy = ["datasets", "evaluate", "pulp", "highspy", "accelerate.accelerator", "matplotlib", "pandas"]
    script = (
        f"import transformers.modeling_utils, sys; a = set(sys.modules); import optimum_mixq; "
        f"print([m for m in {heavy!r} if m in sys.modules and m not in a])"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
