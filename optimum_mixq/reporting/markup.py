# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Pieces of HTML that sections are made of."""

from collections.abc import Iterable
from html import escape


def section(title: str, note: str, content: str) -> str:
    """Return a section: its heading, a note in plain text, and content in HTML that may be wider than the page."""
    name = title.lower().replace(",", "").replace(" ", "-")
    paragraph = f"<p>{escape(note)}</p>" if note else ""
    return (
        f'<section aria-labelledby="{escape(name)}"><h2 id="{escape(name)}">{escape(title)}</h2>{paragraph}{content}'
        "</section>"
    )


def wide(content: str) -> str:
    """Return content that scrolls sideways where the page is too narrow for it."""
    return f'<div class="wide">{content}</div>'


def folded(summary: str, content: str) -> str:
    """Return content that opens with a click."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def tiles(facts: Iterable[tuple[str, str]]) -> str:
    """Return (number, what it is) as tiles."""
    return (
        '<div class="tiles">'
        + "".join(f"<div><b>{escape(number)}</b><span>{escape(text)}</span></div>" for number, text in facts)
        + "</div>"
    )


def definitions(terms: Iterable[tuple[str, str]], kind: str) -> str:
    """Return (term, what it means) as a list of the class `kind`."""
    return (
        f'<dl class="{kind}">'
        + "".join(f"<div><dt>{escape(term)}</dt><dd>{escape(text)}</dd></div>" for term, text in terms)
        + "</dl>"
    )


def picture(address: str, alternative: str, pixelated: bool) -> str:
    """Return an image by its data address; a small one keeps its pixels when it is enlarged."""
    kind = ' class="pixels"' if pixelated else ""
    return f'<img{kind} alt="{escape(alternative)}" src="{address}"/>'
