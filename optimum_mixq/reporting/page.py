# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What a person looks at: one page that needs no other file and no network, and the same as JSON beside it."""

from collections.abc import Callable
from html import escape
from importlib import resources
from pathlib import Path

from optimum_mixq.reporting import evidence, sections
from optimum_mixq.reporting.palette import DARK, LIGHT, as_variables
from optimum_mixq.reporting.report import Report
from optimum_mixq.utils.files import write_json, write_text


Section = Callable[[Report], str]

# The page from top to bottom. A new section is a function here: it returns HTML, or "" where it has nothing to show.
SECTIONS: list[Section] = [
    sections.headline,
    sections.comparison,
    sections.bits,
    sections.frontier,
    sections.legend,
    sections.layers,
    evidence.disagreements,
    evidence.heat_maps,
    evidence.relevance,
    evidence.sensitivity,
    evidence.float_parts,
    evidence.recipe,
]
WITHOUT_SCRIPT = "Without JavaScript the slider and the sorting of the table are off; all else is here."
# Whatever a name in the report may contain, the page loads nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def render_page(report: Report) -> str:
    """Return the page as HTML."""
    body = "\n".join(filter(None, (draw(report) for draw in SECTIONS)))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"/>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f"<title>{escape(report.title)}</title>\n<style>\n{_style()}</style></head>\n"
        f"<body><main>\n<noscript><p>{WITHOUT_SCRIPT}</p></noscript>\n{body}\n</main>\n<script>\n{_read('page.js')}</script></body></html>\n"
    )


def save_report(report: Report, folder: str | Path) -> Path:
    """Write report.html and report.json; return the page's path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "report.json", report.as_json())
    page = folder / "report.html"
    write_text(page, render_page(report))
    return page


def _style() -> str:
    dark = _read("page.css").replace(":root{DARK}", f":root{{{as_variables(DARK)}}}")
    return f":root{{{as_variables(LIGHT)}}}\n{dark}"


def _read(name: str) -> str:
    return (resources.files("optimum_mixq.reporting") / name).read_text(encoding="utf-8")
