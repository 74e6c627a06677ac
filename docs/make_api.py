# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Write docs/api.md from the docstrings and signatures of the package.

python docs/make_api.py
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optimum_mixq
from optimum_mixq import pipeline


PAGE = Path(__file__).parent / "api.md"
SECTIONS = {
    "Quantizing": ("MixQQuantizer", "MixQConfig", "MixQTrainingConfig"),
    "Images": ("open_images", "Images", "Batch", "draw_rows"),
    "Plans and measurements": ("BitPlan", "LayerRelevance", "SensitivityTable", "Evaluation"),
    "The pipeline's functions": (
        "choose_plan", "sweep_plans", "quantize_model", "train_model", "prepare_for_training",
        "parameter_groups", "pack_trained", "measure_relevance", "explain",
    ),
    "Models": ("describe", "Architecture", "demo_model_path", "demo_images_path", "DEMO_MODELS"),
}  # fmt: skip
HEAD = """# API

This page is written by `docs/make_api.py` from the docstrings. Everything on it is imported from `optimum_mixq`, but
`choose_plan` and `sweep_plans` from `optimum_mixq.pipeline`.
"""


def main() -> None:
    PAGE.write_text(api_page(), encoding="utf-8")


def api_page() -> str:
    """Return the page: contents, then each section's classes and functions."""
    contents = [
        f"- {section}: " + ", ".join(f"[{name}](#{name.lower()})" for name in names)
        for section, names in SECTIONS.items()
    ]
    parts = [HEAD, "\n".join(contents) + "\n"]
    for section, names in SECTIONS.items():
        parts.append(f"## {section}\n")
        parts += [describe_object(name) for name in names]
    return "\n".join(parts)


def describe_object(name: str) -> str:
    """Return what the page says of one public name."""
    found = getattr(optimum_mixq, name, None) or getattr(pipeline, name)
    if inspect.isclass(found):
        methods = [describe_function(method, f"#### {name}.{key}") for key, method in public_methods(found)]
        return "\n".join([f"### {name}\n", constructor(found), to_markdown(found), *methods])
    if callable(found):
        return describe_function(found, f"### {name}")
    return f"### {name}\n\n`{found!r}`\n"


def public_methods(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the documented methods that a class itself defines, in the order of its source."""
    for name, value in vars(kind).items():
        method = getattr(value, "__func__", value)
        if not name.startswith("_") and inspect.isfunction(method) and method.__doc__:
            yield name, method


def describe_function(function: Callable[..., Any], heading: str) -> str:
    return f"{heading}\n\n{signature(function)}\n{to_markdown(function)}"


def constructor(kind: type) -> str:
    """Return how an object is made: a dataclass's fields, or the arguments of `__init__`."""
    if "__dataclass_fields__" not in vars(kind):
        return signature(kind.__init__, kind.__name__)
    body = parse(kind).body
    fields = [ast.unparse(node) for node in body if isinstance(node, ast.AnnAssign)]
    return f"```py\n{laid_out(kind.__name__, fields, '')}\n```\n"


def signature(function: Callable[..., Any], name: str | None = None) -> str:
    """Return a function's signature as its source has it, without `self`."""
    node = parse(function)
    arguments = node.args
    defaults = [None] * (len(arguments.args) - len(arguments.defaults)) + list(arguments.defaults)
    words = [
        ast.unparse(argument) + ("" if default is None else f" = {ast.unparse(default)}")
        for argument, default in zip(arguments.args, defaults, strict=True)
        if argument.arg not in ("self", "cls")
    ]
    if arguments.vararg:
        words.append(f"*{ast.unparse(arguments.vararg)}")
    elif arguments.kwonlyargs:
        words.append("*")
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        words.append(ast.unparse(argument) + ("" if default is None else f" = {ast.unparse(default)}"))
    if arguments.kwarg:
        words.append(f"**{ast.unparse(arguments.kwarg)}")
    # An annotation in quotes names a class that its own body mentions.
    result = "" if name or node.returns is None else f" -> {ast.unparse(node.returns).strip(chr(39))}"
    return f"```py\n{laid_out(name or node.name, words, result)}\n```\n"


def laid_out(name: str, words: list[str], result: str) -> str:
    """Return a call in one line if it fits, else an argument per line."""
    line = f"{name}({', '.join(words)}){result}"
    return line if len(line) <= 100 else f"{name}(\n" + "".join(f"    {word},\n" for word in words) + f"){result}"


def parse(found: Any) -> Any:
    return ast.parse(textwrap.dedent(inspect.getsource(found))).body[0]


def to_markdown(found: Any) -> str:
    """Return a docstring with its "Args:" as a list, and without its doctests."""
    text, _, arguments = (inspect.getdoc(found) or "").partition("\nArgs:\n")
    paragraphs = [part for part in text.strip().split("\n\n") if not part.startswith(">>>")]
    text = re.sub(r"^# ", "", "\n\n".join(paragraphs), flags=re.M)
    entries = re.split(r"\n(?=\S)", textwrap.dedent(arguments).strip()) if arguments else []
    listed = "".join("- **`{}`**: {}\n".format(*re.sub(r"\s*\n\s*", " ", entry).split(": ", 1)) for entry in entries)
    return f"{text}\n" + (f"\n{listed}" if listed else "")


if __name__ == "__main__":
    main()
