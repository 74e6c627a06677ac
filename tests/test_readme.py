# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The README's Python runs as it stands, and its tables are those of the benchmarks."""

import re
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parents[1]


def test_the_readmes_python_runs(tmp_path):
    (tmp_path / "optimum_mixq").symlink_to(ROOT / "optimum_mixq")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    assert len(blocks) == 2
    for block in blocks:
        run = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr


def test_no_table_of_the_readme_is_empty_or_a_placeholder():
    text = (ROOT / "README.md").read_text()
    tables = re.findall(r"<!-- (\w+): [^\n]* -->\n(.*?)<!-- end -->", text, flags=re.S)
    assert {name for name, _ in tables} == {
        "uniform_ptq", "ablation", "demo_models", "mixed_precision", "relevance", "qat", "latency"
    }  # fmt: skip
    assert all(table.count("\n|") >= 3 for _, table in tables)
