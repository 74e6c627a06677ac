# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Memory that is given back."""

import ctypes
import sys
from types import SimpleNamespace

import pytest

from optimum_mixq.memory import return_freed_memory


def test_glibc_is_asked_to_give_memory_back(monkeypatch):
    asked = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(malloc_trim=asked.append))
    return_freed_memory()
    assert asked == [0]


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_other_libraries_are_left_alone(platform, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    return_freed_memory()


def test_this_machine_is_asked_without_harm():
    return_freed_memory()
