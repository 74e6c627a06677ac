# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What the package imports is what it requires."""

import ast
import configparser
import re
import sys
from pathlib import Path

import optimum_mixq


PACKAGE = Path(optimum_mixq.__file__).parent
NAMES = {"PIL": "pillow"}  # packages whose modules have another name


def imported_packages():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                yield node.module.split(".")[0]
            elif isinstance(node, ast.Import):
                yield from (name.name.split(".")[0] for name in node.names)


def test_every_package_that_is_imported_is_required_and_no_other():
    setup = configparser.ConfigParser()
    setup.read(PACKAGE.parent / "setup.cfg")
    lines = setup["options"]["install_requires"].split()
    required = {re.split("[<>=]", line)[0] for line in lines}
    imported = {NAMES.get(name, name) for name in imported_packages()}
    assert required == imported - sys.stdlib_module_names - {"optimum_mixq"}
