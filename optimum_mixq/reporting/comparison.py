# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Models side by side on the same images: what the page and the model card both tell."""

import dataclasses
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from optimum_mixq.images.selection import tell_left_out
from optimum_mixq.stages.evaluation import Evaluation


@dataclass(frozen=True)
class Contender:
    """What was measured of one model."""

    name: str
    megabytes: float  # 10^6 bytes of its file
    milliseconds: float | None  # per image; None where it was not timed
    evaluation: Evaluation


@dataclass(frozen=True)
class Comparison:
    """Models on the same images. The first contender is the float model, the last the packed one."""

    contenders: tuple[Contender, ...]
    dataset: str
    split: str | None
    machine: str  # on which they were timed, taking turns in one process
    left_out: int | None = None  # images that served; None where it is not known which did
    accuracy_name: str = "top-1"
    divergence_name: str = "KL to float"
    accuracy_metric: str = "accuracy"  # its name in the card's index of results
    divergence_metric: str | None = None  # that of the divergence; None keeps it out of there

    @property
    def float_model(self) -> Contender:
        return self.contenders[0]

    @property
    def packed(self) -> Contender:
        return self.contenders[-1]

    @property
    def milliseconds(self) -> dict[str, float]:
        """Return the time per image of each contender that was timed, by name."""
        times = {contender.name: contender.milliseconds for contender in self.contenders}
        return {name: time for name, time in times.items() if time is not None}

    @property
    def speedup(self) -> float | None:
        """Return how many times as fast as the float model the packed one is, or None where they were not timed."""
        before, after = self.float_model.milliseconds, self.packed.milliseconds
        return None if before is None or after is None else before / after

    def describe_images(self) -> str:
        """Return how many images of which data set were seen, such as "100 images (pictures, split test)"."""
        where = self.dataset + (f", split {self.split}" if self.split else "")
        return f"{self.packed.evaluation.images} images ({where})"

    def describe_selection(self) -> str:
        """Return a sentence on the images that made the packed model: whether some were among those of the source."""
        if self.left_out is None:
            return "It is not recorded which images served calibration: some of these may have."
        if self.left_out == 0:
            return "None of them served calibration, the choice of bits or training."
        return f"{tell_left_out(self.left_out)}."

    def with_times_of(self, earlier: "Comparison | None") -> "Comparison":
        """Return this comparison with the times of an earlier one of the same two models, if it has some."""
        if earlier is None or self.milliseconds or not earlier.milliseconds:
            return self
        first = dataclasses.replace(self.float_model, milliseconds=earlier.float_model.milliseconds)
        last = dataclasses.replace(self.packed, milliseconds=earlier.packed.milliseconds)
        return dataclasses.replace(self, contenders=(first, last), machine=earlier.machine)


def name_machine() -> str:
    """Return the processor's name, its threads in use, and torch's version."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return f"{name}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"
