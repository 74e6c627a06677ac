# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Options in groups, one for each stage that reads them. A group is frozen and checks itself.

What a stage registers (scores, metrics, arithmetics, ...) lies in a higher room, and is imported when an option is
checked: then all names are there.
"""

from dataclasses import dataclass
from typing import Any, Literal

from optimum_mixq.quant.arithmetics import arithmetic_names
from optimum_mixq.quant.softmax_grids import softmax_grid_names
from optimum_mixq.utils.bits import LARGEST_BITS, SMALLEST_BITS, is_width
from optimum_mixq.utils.checks import is_number, is_positive, is_whole, require, require_one_of


QUANT_METHOD = "mixq"
FORMAT_VERSION = 1
LARGEST_SEED = 2**63 - 1  # of torch's generators
A_COUNT = "a positive whole number"
A_WIDTH = f"a width of {SMALLEST_BITS} to {LARGEST_BITS}"
A_WIDTH_OR_TWO = f"{A_WIDTH}, or (weight bits, activation bits)"


@dataclass(frozen=True, kw_only=True)
class BudgetOptions:
    """What bits are chosen from, and within which budget; `MixQConfig` explains each option."""

    bits: int | float | tuple[int, int] | None
    size_mb: float | None
    bops: float | None
    candidate_bits: tuple[int, ...] | None
    tie_bits: bool
    overrides: dict[str, int | tuple[int, int]]
    exclude: tuple[str, ...]
    alpha: float
    compare: bool
    solver: str

    def __post_init__(self) -> None:
        self._check_budget()
        self._check_patterns()
        require(is_number(self.alpha, 0), "alpha", "zero or more", self.alpha)
        require_one_of("solver", ("highs", "cbc"), self.solver)
        _require_switches(self, "tie_bits", "compare")
        if self.tie_bits and isinstance(self.bits, tuple) and self.bits[0] != self.bits[1]:
            raise ValueError(
                f"Expected one number of bits with tie_bits=True, found {self.bits!r}. Leave out tie_bits."
            )

    def _check_budget(self) -> None:
        between = isinstance(self.bits, float) and SMALLEST_BITS <= self.bits <= LARGEST_BITS
        right = _is_width_or_two(self.bits) or between or self.bits is None
        require(right, "bits", f"{A_WIDTH_OR_TWO}, or None beside size_mb or bops", self.bits)
        for name in ("size_mb", "bops"):
            value = getattr(self, name)
            require(value is None or is_positive(value), name, "a positive number", value)
        if self.bits is None and self.size_mb is None and self.bops is None:
            raise ValueError("Expected a budget: bits, size_mb or bops, found None for all of them.")

    def _check_patterns(self) -> None:
        widths = self.candidate_bits
        right = widths is None or (isinstance(widths, tuple) and len(widths) > 0 and all(map(is_width, widths)))
        expected = f"widths of {SMALLEST_BITS} to {LARGEST_BITS}, such as (3, 4, 5, 6)"
        require(right, "candidate_bits", expected, widths)
        right = isinstance(self.overrides, dict) and all(isinstance(pattern, str) for pattern in self.overrides)
        require(right, "overrides", "a dict of bits by pattern, such as {'*.fc2': 8}", self.overrides)
        for pattern, bits in self.overrides.items():
            require(_is_width_or_two(bits), f"overrides['{pattern}']", A_WIDTH_OR_TWO, bits)
        right = isinstance(self.exclude, tuple) and all(isinstance(pattern, str) for pattern in self.exclude)
        require(right, "exclude", "a tuple of patterns, such as ('*.fc2',)", self.exclude)


@dataclass(frozen=True, kw_only=True)
class RelevanceOptions:
    """How relevance is measured."""

    score: str
    relevance_stabiliser: float
    relevance_samples: int

    def __post_init__(self) -> None:
        from optimum_mixq.stages.relevance.scores import score_names

        require_one_of("score", score_names(), self.score)
        require(
            is_number(self.relevance_stabiliser, 0), "relevance_stabiliser", "zero or more", self.relevance_stabiliser
        )
        require(is_whole(self.relevance_samples, 1), "relevance_samples", A_COUNT, self.relevance_samples)


@dataclass(frozen=True, kw_only=True)
class SensitivityOptions:
    """How sensitivity is measured, and plans are compared."""

    sensitivity: str
    metric: str
    temperature: float
    baseline: int

    def __post_init__(self) -> None:
        from optimum_mixq.stages.sensitivity import method_names, metric_names

        require_one_of("sensitivity", method_names(), self.sensitivity)
        takers = [name for name in method_names() if self.metric in metric_names(name)]
        if takers and self.sensitivity not in takers:
            raise ValueError(
                f"Expected a metric that sensitivity='{self.sensitivity}' takes, found '{self.metric}'. Set "
                f"sensitivity to {' or '.join(map(repr, takers))}, or leave out metric."
            )
        require_one_of("metric", metric_names(self.sensitivity), self.metric)
        require(is_positive(self.temperature), "temperature", "a positive number", self.temperature)
        require(is_width(self.baseline), "baseline", A_WIDTH, self.baseline)


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """How grids are calibrated and weights rounded, and on which images."""

    arithmetic: str
    softmax: str
    stem_and_head_bits: int
    calibration_samples: int
    seed: int
    input_search: bool
    level: bool
    weight_search: bool
    correction: bool
    ridge: float
    compensation: bool
    rounder: str | None
    clip: float | Literal["search"] | None
    balance: bool

    def __post_init__(self) -> None:
        require_one_of("arithmetic", arithmetic_names(), self.arithmetic)
        require_one_of("softmax", softmax_grid_names(), self.softmax)
        require(is_width(self.stem_and_head_bits), "stem_and_head_bits", A_WIDTH, self.stem_and_head_bits)
        require(is_whole(self.calibration_samples, 1), "calibration_samples", A_COUNT, self.calibration_samples)
        require(is_whole(self.seed, 0, LARGEST_SEED), "seed", "a whole number from zero", self.seed)
        require(is_positive(self.ridge), "ridge", "a positive number", self.ridge)
        clip = self.clip is None or self.clip == "search" or is_positive(self.clip)
        require(clip, "clip", "a positive number of standard deviations, 'search' or None", self.clip)
        _require_switches(self, "input_search", "level", "weight_search", "correction", "compensation", "balance")
        require(self.rounder is None or isinstance(self.rounder, str), "rounder", "a name or None", self.rounder)
        if self.rounder is not None:
            require(self.compensation, "compensation", "left out where rounder is given", self.compensation)


@dataclass(frozen=True, kw_only=True)
class ReconstructionOptions:
    """Whether blocks learn after they are calibrated, and how."""

    reconstruction: str | None
    reconstruction_loss: str

    def __post_init__(self) -> None:
        from optimum_mixq.stages.reconstruction import budget_names, loss_names

        if self.reconstruction is not None:
            require_one_of("reconstruction", budget_names(), self.reconstruction)
        require_one_of("reconstruction_loss", loss_names(), self.reconstruction_loss)


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How many images bits are chosen on, and how many go through the model at a time."""

    sensitivity_samples: int
    batch_size: int

    def __post_init__(self) -> None:
        for name in ("sensitivity_samples", "batch_size"):
            require(is_whole(getattr(self, name), 1), name, A_COUNT, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """What is filled in while a model is quantized and saved."""

    trainable: bool
    plan: dict[str, Any] | None
    record: dict[str, Any] | None
    digests: str | None
    format_version: int
    quant_method: str

    def __post_init__(self) -> None:
        _require_switches(self, "trainable")
        for name in ("plan", "record"):
            value = getattr(self, name)
            require(value is None or isinstance(value, dict), name, "a dict or None", value)
        require(self.digests is None or isinstance(self.digests, str), "digests", "text or None", self.digests)
        require(self.quant_method == QUANT_METHOD, "quant_method", f"'{QUANT_METHOD}'", self.quant_method)
        require(self.format_version == FORMAT_VERSION, "format_version", str(FORMAT_VERSION), self.format_version)


GROUPS: tuple[type[Any], ...] = (
    BudgetOptions,
    RelevanceOptions,
    SensitivityOptions,
    CalibrationOptions,
    ReconstructionOptions,
    SamplingOptions,
    SavedState,
)


def _require_switches(options: Any, *names: str) -> None:
    for name in names:
        require(isinstance(getattr(options, name), bool), name, "True or False", getattr(options, name))


def _is_width_or_two(bits: Any) -> bool:
    return is_width(bits) or (isinstance(bits, tuple) and len(bits) == 2 and all(map(is_width, bits)))
