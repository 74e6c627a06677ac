# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Memory that is given back."""

import ctypes
import resource
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from optimum_mixq.utils.memory import return_freed_memory


def test_glibc_is_asked_to_give_memory_back(monkeypatch):
    asked = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(malloc_trim=asked.append))
    return_freed_memory()
    assert asked == [0]


@pytest.mark.parametrize(("platform", "libraries"), [("linux", [None]), ("darwin", []), ("win32", [])])
def test_other_libraries_are_left_alone(platform, libraries, monkeypatch):
    opened = []
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: opened.append(name) or SimpleNamespace())
    return_freed_memory()
    assert opened == libraries


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")
def test_what_lies_below_memory_in_use_is_given_back():
    parts = [b"x" * 100_000 for _ in range(2000)]
    last = parts.pop()
    parts.clear()
    before = resident_megabytes()
    return_freed_memory()
    assert len(last) == 100_000 and resident_megabytes() < before - 100


def resident_megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
