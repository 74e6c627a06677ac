# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The progress of every long step, with the time left: a bar in a terminal or notebook, elsewhere lines."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tqdm.auto import tqdm
from tqdm.std import tqdm as terminal_bar
from transformers.utils import logging


# Seconds between two lines where there is no terminal, whichever steps they are of.
INTERVAL = 5.0
LINE = "{desc}: {percentage:.0f}% ({n_fmt} of {total_fmt}), {elapsed}<{remaining}{postfix}"

_ours_alone: ContextVar[bool] = ContextVar("ours_alone", default=False)


def progress_bar(total: int | None, description: str, unit: str, shown: bool = True, done: int = 0) -> Any:
    """Return a bar; it is silent where transformers' bars are disabled or only errors are wanted.

    `done` of the total was done by an earlier run: it says nothing of this run's pace.
    """
    ours_alone = _ours_alone.get()
    quiet = logging.get_verbosity() >= logging.ERROR or not (ours_alone or logging.is_progress_bar_enabled())
    in_notebook = any("notebook" in base.__module__ for base in tqdm.__mro__)
    kind = tqdm if in_notebook or sys.stderr.isatty() else ProgressLines
    return kind(
        total=total, initial=done, desc=description, unit=unit, disable=quiet or not shown, leave=not ours_alone
    )  # fmt: skip


@contextmanager
def our_bars_alone() -> Iterator[None]:
    """Silence transformers' bars of loading and saving, and clear ours from the terminal when they are full."""
    if not logging.is_progress_bar_enabled():  # then ours are not wanted either
        yield
        return
    token = _ours_alone.set(True)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
        _ours_alone.reset(token)


class ProgressLines(terminal_bar):
    """A bar that writes whole lines, for logs and pipes: one every few seconds, and its last one if it had others."""

    last_line = time.monotonic()  # when any of these bars wrote, or the first one could have
    disable: bool

    def __init__(self, **options: Any) -> None:
        self._written: int | None = None  # what was done when a line was written
        super().__init__(mininterval=0, miniters=1, bar_format=LINE, **options)  # `display` decides when

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Write a line, unless one was written just before."""
        now = time.monotonic()
        if now - ProgressLines.last_line >= INTERVAL:
            ProgressLines.last_line = now
            self._write()
        return True

    def close(self) -> None:
        """Write the last line if there were others."""
        if getattr(self, "disable", True):  # closed before, never shown, or never finished being made
            return
        if self._written not in (None, self.n):
            self._write()
        self.disable = True
        self._decr_instances(self)

    def _write(self) -> None:
        self._written = self.n
        print(self, file=sys.stderr, flush=True)
