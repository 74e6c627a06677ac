# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Links of the README and the documents lead somewhere, and the API page is the docstrings'."""

import re
from pathlib import Path

import pytest

import optimum_mixq


ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(page):
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)


def anchors(page):
    """Return the anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


LINKS = [
    (page, link)
    for page in PAGES
    for link in LINK.findall(prose(page))
    if not link.startswith(("https://", "http://"))
]


def problem(page, link):
    """Return what is wrong with a relative link of a page, or None."""
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists() or not target.is_relative_to(ROOT):
        return f"{page.name} links to {link}: there is no such file."
    if anchor and anchor not in anchors(target):
        return f"{page.name} links to {link}: there is no such heading."
    return None


@pytest.mark.parametrize(("page", "link"), LINKS, ids=lambda value: getattr(value, "name", value))
def test_each_relative_link_leads_to_a_file_and_heading_that_exist(page, link):
    assert problem(page, link) is None


@pytest.mark.parametrize("link", ["no-such-page.md", "pipeline.md#no-such-heading", "#no-such-heading"])
def test_a_link_that_leads_nowhere_is_found(link):
    assert "there is no such" in problem(ROOT / "docs" / "README.md", link)


def test_the_index_of_the_documents_names_every_page():
    index = ROOT / "docs" / "README.md"
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"} <= set(LINK.findall(prose(index)))


def test_the_readme_leads_to_the_paper_and_to_the_index_of_the_documents():
    links = LINK.findall(prose(ROOT / "README.md"))
    assert "https://arxiv.org/abs/2501.06357" in links and "docs/README.md" in links


@pytest.fixture
def make_api(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import make_api

    return make_api


def test_the_api_page_is_what_the_docstrings_say(make_api):
    expected = make_api.api_page()
    assert make_api.PAGE.read_text() == expected, "Run `python docs/make_api.py`: docs/api.md is out of date."


def test_the_api_page_holds_every_public_name(make_api):
    described = {name for names in make_api.SECTIONS.values() for name in names}
    assert set(optimum_mixq.__all__) <= described


def test_the_api_page_lists_arguments_and_leaves_out_doctests(make_api):
    page = make_api.api_page()
    assert "- **`size_mb`**: megabytes" in page and "    bits: int | float" in page
    assert "Args:" not in page and ">>>" not in page


def test_a_signature_is_told_as_its_source_has_it(make_api):
    def scale(weight: int, *rest: int, bits: int = 4, **options: str) -> "float":
        """Return something."""

    expected = "```py\nscale(weight: int, *rest: int, bits: int = 4, **options: str) -> float\n```\n"
    assert make_api.signature(scale) == expected
