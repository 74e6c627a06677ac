# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The progress bar of every long step, with the time left."""

from typing import Any

from tqdm.auto import tqdm
from transformers.utils import logging


def progress_bar(total: int | None, description: str, unit: str, shown: bool = True, done: int = 0) -> Any:
    """Return a bar; it is silent where transformers' bars are disabled or only errors are wanted.

    `done` of the total was done by an earlier run: it says nothing of this run's pace.
    """
    quiet = logging.get_verbosity() >= logging.ERROR or not logging.is_progress_bar_enabled()
    return tqdm(total=total, initial=done, desc=description, unit=unit, disable=quiet or not shown)
