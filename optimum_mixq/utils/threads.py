# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Runs work on as many of torch's threads as it is fastest with: one, or all of them.

Threads that share an operator wait for one another at its end. In small layers they wait longer than they work, and
where another program has one of the cores, all of them wait until it gives that core back.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from weakref import WeakKeyDictionary

import torch


# What torch chose by itself, unless somebody chose before this package was imported.
AT_IMPORT: int = torch.get_num_threads()
# Rounds of timing, and the seconds after which no further one begins.
ROUNDS, SECONDS = 5, 4.0
# All threads are used where they take less than this share of one thread's time: a smaller gain is gone as soon as
# another program needs a core.
WORTH_WAITING = 0.8
# How often slower all threads have to be to be ruled out at once.
HOPELESS = 3.0
# For how many seconds an answer holds: other programs come and go.
LASTS = 300.0

_decided: ContextVar[bool] = ContextVar("decided", default=False)
_answers: "WeakKeyDictionary[object, tuple[int, float]]" = WeakKeyDictionary()


@contextmanager
def fitting_threads(work: Callable[[], object], owner: object) -> Iterator[int]:
    """Run the block on the number of threads that `work` is fastest with, and yield that number.

    The number from before is restored at the end. It is left alone where somebody chose it (`threads_are_chosen`),
    and inside another such block. `owner` is whose work it is, such as a model: it is timed again only after a while.
    """
    before = torch.get_num_threads()
    if before == 1 or _decided.get() or threads_are_chosen():
        yield before
        return
    token = _decided.set(True)
    try:
        number, asked = _answers.get(owner, (0, 0.0))
        if number not in (1, before) or time.monotonic() - asked > LASTS:
            number = faster_number(work, before)
            _answers[owner] = number, time.monotonic()
        torch.set_num_threads(number)
        yield number
    finally:
        torch.set_num_threads(before)
        _decided.reset(token)


def threads_are_chosen() -> bool:
    """Return whether the environment names the number of threads, or `torch.set_num_threads` has changed it."""
    named = any(os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))
    return named or torch.get_num_threads() != AT_IMPORT


def faster_number(work: Callable[[], object], threads: int) -> int:
    """Return 1 or `threads`, whichever `work` is faster with; the two take turns, and medians are compared."""
    one: list[float] = []
    all_of_them: list[float] = []
    _seconds_of(work, 1)  # warms up
    started = time.perf_counter()
    while len(one) < ROUNDS and (not one or time.perf_counter() - started < SECONDS):
        one.append(_seconds_of(work, 1))
        all_of_them.append(_seconds_of(work, threads))
        if all_of_them[-1] > HOPELESS * one[-1]:
            return 1
    return threads if statistics.median(all_of_them) < WORTH_WAITING * statistics.median(one) else 1


def _seconds_of(work: Callable[[], object], threads: int) -> float:
    torch.set_num_threads(threads)
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
