# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The README is short, its Python runs as it is, and all tables and pictures are those of the benchmarks."""

import re
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TABLES = {
    "README.md": {"summary"},
    "docs/supported-models.md": {"published_sizes"},
    "docs/results.md": {
        "uniform_ptq", "ablation", "demo_models", "mixed_precision",
        "scores", "scores_bench", "stabiliser", "pairs", "halves", "relevance", "qat", "latency",
        "deployment", "deployment_accuracy", "deployment_attention", "choosing", "reconstruction", "defaults", "peers",
        "synthetic", "features", "scene_models", "limits", "grids",
    },
}  # fmt: skip


@pytest.fixture
def benchmarks(monkeypatch):
    """The folder of the benchmarks can be imported from, as when one of them runs."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def marked_tables(page):
    return dict(re.findall(r"<!-- (\w+): [^\n]* -->\n(.*?)<!-- end -->", (ROOT / page).read_text(), flags=re.S))


def test_the_readmes_python_runs(tmp_path, few_images):
    (tmp_path / "optimum_mixq").symlink_to(ROOT / "optimum_mixq")
    shipped = "optimum_mixq/demo/images"
    assert (ROOT / shipped).is_dir() and shipped in README.read_text()
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)
    assert len(blocks) == 2
    for block in blocks:
        block = block.replace(shipped, str(few_images))  # like the shipped ones, but fewer
        run = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr


def test_the_readme_has_at_most_120_lines():
    assert len(README.read_text().splitlines()) <= 120


def test_the_readme_has_no_results_but_its_summary():
    outside = re.sub(r"<!-- summary: .*?<!-- end -->", "", README.read_text(), flags=re.S)
    rows = [line for line in outside.splitlines() if line.startswith("|")]
    assert not any(re.search(r"\d", row) for row in rows), rows
    assert marked_tables("README.md")["summary"].count("\n|") == 1 + 8  # the line below the head, and eight models


@pytest.mark.parametrize("page", TABLES)
def test_no_table_is_empty_or_a_placeholder(page):
    tables = marked_tables(page)
    assert set(tables) == TABLES[page]
    assert all(table.count("\n|") >= 3 for table in tables.values())


def test_the_tables_are_what_the_benchmarks_measured(benchmarks):
    import readme

    pages = readme.pages()
    assert {page: set(tables) for page, tables in pages.items()} == TABLES
    for page, tables in pages.items():
        text = (ROOT / page).read_text()
        assert readme.fill_in(text, tables) == text, f"Run `python benchmarks/readme.py`: {page} is out of date."


def test_a_page_without_a_place_for_a_table_is_refused(benchmarks):
    import readme

    with pytest.raises(ValueError, match="Expected one place for the table 'summary', found 0"):
        readme.fill_in("# A page", {"summary": lambda: "| a |"})


def test_the_picture_of_bits_is_the_plan_that_was_measured(benchmarks):
    import picture

    drawn = picture.draw(picture.read_plan())
    assert picture.PICTURE.read_text() == drawn, "Run `python benchmarks/picture.py`: the picture is out of date."
