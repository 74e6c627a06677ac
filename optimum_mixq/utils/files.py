# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Files that appear whole: a reader finds the old content or the new one, never half of it."""

import json
from pathlib import Path
from typing import Any


def write_text(path: str | Path, content: str) -> None:
    """Write a file next to its place, then rename it."""
    unfinished = Path(path).with_name(f".{Path(path).name}.unfinished")
    unfinished.write_text(content, encoding="utf-8")
    unfinished.replace(path)


def write_json(path: str | Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: str | Path) -> Any:
    """Return what a file of measurements holds; what is no JSON raises a ValueError."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON ({error}): delete it and measure again.") from error
