# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Imports run one way: a module imports modules of lower rank only, or of its own rank where that is allowed."""

import ast
import subprocess
import sys
from pathlib import Path

import optimum_mixq


PACKAGE = Path(optimum_mixq.__file__).parent
# docs/pipeline.md, "The rooms". Higher ranks import lower ones.
RANKS = {
    "checks": 0,
    "file_size": 0,
    "config": 0,
    "artifacts": 0,
    "architectures": 0,
    "data": 0,
    "sources": 0,
    "folders": 0,
    "splits": 0,
    "samples": 0,
    "loaders": 0,
    "labels": 0,
    "decoding": 0,
    "preparation": 0,
    "selection": 0,
    "demo": 0,
    "replay": 0,
    "progress": 0,
    "memory": 0,
    "measuring": 0,
    "watching": 0,
    "rebuilding": 0,
    "tasks": 1,
    "digests": 0,
    "metrics": 0,
    "losses": 0,
    "training_config": 0,
    "training_data": 2,
    "fingerprints": 0,
    "kernels": 0,
    "quant.grids": 1,
    "quant.packing": 1,
    "quant.codes": 1,
    "quant.prepared": 1,
    "quant.norms": 1,
    "lrp.rules": 1,
    "quant.patches": 2,
    "quant.observers": 2,
    "quant.attention": 2,
    "quant.rounding": 2,
    "quant.reparameterization": 2,
    "quant.layers": 2,
    "quant.learned": 2,
    "quant.packed": 2,
    "quant.packed_embedding": 2,
    "lrp.propagation": 2,
    "highs": 1,
    "program": 2,
    "joint_rounding": 3,
    "stages": 3,
    "fusion": 3,
    "hub": 3,
    "choices": 4,
    "pipeline": 4,
    "quantizer": 4,
    "page_style": 0,
    "pictures": 0,
    "report": 4,
    "card": 4,
    "sharing": 4,
    "wording": 4,
    "reporting": 4,
    "cli": 5,
}
WITHIN_RANK = {
    ("config", "checks"),
    ("training_config", "checks"),
    ("kernels", "kernels"),
    ("sources", "architectures"),
    ("tasks", "tasks"),
    ("sources", "data"),
    ("sources", "decoding"),
    ("sources", "folders"),
    ("sources", "labels"),
    ("sources", "loaders"),
    ("sources", "preparation"),
    ("sources", "samples"),
    ("sources", "splits"),
    ("folders", "data"),
    ("folders", "splits"),
    ("splits", "data"),
    ("data", "labels"),
    ("preparation", "architectures"),
    ("selection", "artifacts"),
    ("selection", "data"),
    ("selection", "progress"),
    ("artifacts", "architectures"),
    ("config", "architectures"),
    ("replay", "architectures"),
    ("rebuilding", "architectures"),
    ("watching", "architectures"),
    ("watching", "measuring"),
    ("fingerprints", "data"),
    ("training_data", "data"),
    ("training_data", "losses"),
    ("training_data", "training_config"),
    ("quant.layers", "quant.patches"),
    ("quant.reparameterization", "quant.observers"),
    ("quant.packed", "quant.layers"),
    ("quant.packed_embedding", "quant.layers"),
    ("quant.packed_embedding", "quant.patches"),
    ("quant.learned", "quant.layers"),
    ("quant.learned", "quant.attention"),
    ("stages", "joint_rounding"),
    ("hub", "fusion"),
    ("pipeline", "choices"),
    ("quantizer", "pipeline"),
    ("quantizer", "card"),
    ("quantizer", "choices"),
    ("quantizer", "report"),
    ("quantizer", "reporting"),
    ("quantizer", "sharing"),
    ("reporting", "card"),
    ("reporting", "choices"),
    ("reporting", "pipeline"),
    ("reporting", "report"),
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if name != "__init__":
            yield name, path


def room(name):
    return next((folder for folder in ("stages", "tasks", "demo", "kernels") if name.split(".")[0] == folder), name)


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("optimum_mixq"):
            base = node.module.removeprefix("optimum_mixq").lstrip(".")
            known = {name for name, _ in modules()}
            for alias in node.names:
                joined = f"{base}.{alias.name}".lstrip(".")
                yield joined if joined in known else base
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("optimum_mixq"):
                    yield alias.name.removeprefix("optimum_mixq").lstrip(".")


def test_imports_run_one_way():
    wrong = []
    for name, path in modules():
        if name in ("stages", "quant", "lrp"):
            assert not list(imported_modules(path)), f"{name}/__init__.py imports"
            continue
        for target in imported_modules(path):
            importer, imported = room(name), room(target)
            allowed = RANKS[imported] < RANKS[importer] or (importer, imported) in WITHIN_RANK
            crosses = {importer.split(".")[0], imported.split(".")[0]} == {"quant", "lrp"}
            if (not allowed or crosses) and name != target:
                wrong.append(f"{name} imports {target}")
    assert wrong == []


def test_kernels_know_torch_alone():
    for name, path in modules():
        if room(name) == "kernels":
            assert all(room(target) == "kernels" for target in imported_modules(path)), name
            lines = [line for line in path.read_text().splitlines() if line.startswith(("import", "from"))]
            assert not any("transformers" in line for line in lines), name


def test_arithmetic_knows_neither_transformers_nor_other_rooms():
    for name, path in modules():
        if name.startswith(("quant.", "lrp.rules")):
            lines = [line for line in path.read_text().splitlines() if line.startswith(("import", "from"))]
            assert not any("transformers" in line for line in lines), name


def test_module_names_of_architectures_stand_in_one_file():
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "layernorm_before", "layernorm_after")
    for name, path in modules():
        if name != "architectures":
            assert not any(word in path.read_text() for word in names), name


def test_importing_the_package_loads_no_heavy_dependency_that_it_may_not_need():
    heavy = ["datasets", "evaluate", "pulp", "highspy", "accelerate.accelerator", "matplotlib", "pandas"]
    script = (
        f"import transformers.modeling_utils, sys; a = set(sys.modules); import optimum_mixq; "
        f"print([m for m in {heavy!r} if m in sys.modules and m not in a])"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
