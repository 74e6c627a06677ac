# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What the package imports is what it requires."""

import ast
import configparser
import re
import sys
from pathlib import Path

import optimum_mixq


PACKAGE = Path(optimum_mixq.__file__).parent
NAMES = {"PIL": "pillow", "onnx_ir": "onnx-ir", "ml_dtypes": "ml-dtypes"}  # packages whose modules have another name

BROUGHT = {"triton"}  # by torch where there is a GPU for it: nothing needs it elsewhere


def imported_packages():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                yield node.module.split(".")[0]
            elif isinstance(node, ast.Import):
                yield from (name.name.split(".")[0] for name in node.names)


def required_by(text):
    return {re.split("[<>=]", line)[0] for line in text.split("\n") if line}


def test_every_package_that_is_imported_is_required_and_no_other():
    setup = configparser.ConfigParser()
    setup.read(PACKAGE.parent / "setup.cfg")
    extras = setup["options.extras_require"]
    required, optional = (
        required_by(setup["options"]["install_requires"]),
        required_by(extras["onnx"] + extras["openvino"] + extras["detection"]),
    )
    imported = {NAMES.get(name, name) for name in imported_packages()} - sys.stdlib_module_names - {"optimum_mixq"}
    assert required <= imported <= required | optional | BROUGHT
    assert not required & optional and optional | BROUGHT <= required_by(extras["test"])
