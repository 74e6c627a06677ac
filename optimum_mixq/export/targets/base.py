# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What a target of an export answers, and which one a name stands for."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from numpy.typing import NDArray

from optimum_mixq.utils.checks import require_one_of


if TYPE_CHECKING:
    import onnx_ir


class Engine(ABC):
    """A file that an inference engine has loaded, on one CPU thread."""

    @abstractmethod
    def run(self, pixels: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        """Return the outputs for pixels (B, C, H, W), by name."""

    @abstractmethod
    def integer_products(self) -> int:
        """Return how many products with a constant operand the engine computes in 8-bit integers."""


class Target(ABC):
    """One format, and the engine that runs it."""

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]  # what writing and checking need, by the names they are imported by
    extra: ClassVar[str]  # the extra of this package that installs them
    as_matrices: ClassVar[bool] = False  # whether the engine multiplies matrices faster than more dimensions
    without_vnni: ClassVar[str] = "Use a CPU with VNNI."  # what to do where sums of 8-bit products saturate

    def require_packages(self) -> None:
        """Raise a ValueError that says what to install if a package is missing."""
        missing = [package for package in self.packages if importlib.util.find_spec(package) is None]
        if missing:
            raise ValueError(
                f"Exporting to '{self.name}' needs the packages {', '.join(self.packages)}; missing: "
                f'{", ".join(missing)}. Install them with: pip install "optimum-mixq[{self.extra}]"'
            )

    @abstractmethod
    def write(self, program: "onnx_ir.Model", folder: Path) -> None:
        """Write a traced graph into a folder."""

    @abstractmethod
    def load(self, folder: Path) -> Engine:
        """Return what `write` wrote, loaded by the engine."""


TARGETS: dict[str, Target] = {}

Kind = TypeVar("Kind", bound=type[Target])


def register_target(target: Kind) -> Kind:
    """Add a target under its name; of two with the same name, the one registered last is used."""
    TARGETS[target.name] = target()
    return target


def target_names() -> tuple[str, ...]:
    """Return the names of all targets."""
    return tuple(sorted(TARGETS))


def target_of(name: str) -> Target:
    """Return the target of a name; a name that nobody registered raises a ValueError."""
    require_one_of("target", target_names(), name)
    return TARGETS[name]
