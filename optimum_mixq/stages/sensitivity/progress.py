# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Sums that grow step by step, in a file that a stopped run goes on from, and in several processes."""

import os
from collections.abc import Mapping
from pathlib import Path

from optimum_mixq.stages.sensitivity.moments import Moments, Sums
from optimum_mixq.utils.files import read_json, write_json


# What the sums of a file are of: one of another kind cannot be gone on from.
STATISTICS = "halves and squares"


class Progress:
    """The sums so far, and which steps are in them; saved after each step.

    Each process of `accelerate launch` has its own sums and its own file.
    """

    def __init__(self, path: Path | None, marks: dict[str, str]) -> None:
        self.rank, self.processes = find_process()
        self.sums: Sums = {}
        self._marks, self._path = {**marks, "statistics": STATISTICS}, path
        self._done: set[tuple[int, ...]] = set()
        if self._path is not None and self.processes > 1:
            self._path = self._path.with_name(f"{self._path.name}.{self.rank}-of-{self.processes}")
        if self._path is not None and self._path.exists():
            self._load(self._path)

    def _load(self, path: Path) -> None:
        content = read_json(path)
        different = [name for name, mark in self._marks.items() if content.get("fingerprint", {}).get(name) != mark]
        if different:
            raise ValueError(
                f"{path} holds a sensitivity measured with other {' and '.join(different)}. Delete it to measure "
                "anew, or choose another folder."
            )
        self.sums, self._done = content["sums"], {tuple(step) for step in content["done"]}

    def is_done(self, *step: int) -> bool:
        return step in self._done

    def add(self, found: Mapping[str, Mapping[str, Moments]], *step: int) -> None:
        """Add what a step found to the sums."""
        _add(self.sums, found)
        self._done.add(step)
        if self._path is not None:
            content = {"fingerprint": self._marks, "done": sorted(self._done), "sums": self.sums}
            write_json(self._path, content)

    def gather(self) -> Sums:
        """Return the sums of all processes together."""
        gathered: Sums = {}
        if self.processes == 1:
            _add(gathered, self.sums)
            return gathered
        from accelerate.utils import gather_object

        for part in gather_object([self.sums]):
            _add(gathered, part)
        return gathered


def find_process() -> tuple[int, int]:
    """Return this process' rank and the number of processes, as `accelerate launch` or `torchrun` sets them."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1
    import torch
    from accelerate import PartialState

    # Without an accelerator accelerate 1.15 takes every process for a single one, unless it is asked for the CPU.
    state = PartialState(cpu=not torch.accelerator.is_available())
    return int(state.process_index), int(state.num_processes)  # type: ignore[has-type]


def _add(sums: Sums, found: Mapping[str, Mapping[str, Moments]]) -> None:
    for unit, row in found.items():
        known = sums.setdefault(unit, {})
        for bits, moments in row.items():
            before = known.get(bits, [0.0] * len(moments))
            known[bits] = [one + other for one, other in zip(before, moments, strict=True)]
