# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The recipe: one flat, checked configuration that is saved with the model as its `quantization_config`.

Its options fall into groups, one for each stage that reads them. A group is frozen, checks itself, and is what a
measurement's fingerprint is made of.
"""

import difflib
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from transformers.utils.quantization_config import QuantizationConfigMixin

from optimum_mixq.quant.arithmetics import arithmetic_names
from optimum_mixq.utils.bits import LARGEST_BITS, SMALLEST_BITS, is_width
from optimum_mixq.utils.checks import is_number, is_positive, is_whole, require, require_one_of


QUANT_METHOD = "mixq"
FORMAT_VERSION = 1
# The name under which our attention function is registered, and the attention's submodule that holds its grids.
ATTENTION, ATTENTION_CHILD = "mixq", "mixq_attention"
# Patch embedding and classification heads stay outside the search.
STEM_AND_HEAD_BITS = 8
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

    def __post_init__(self) -> None:
        require_one_of("score", ("absolute", "signed", "mean", "gradient"), self.score)


@dataclass(frozen=True, kw_only=True)
class SensitivityOptions:
    """How sensitivity is measured, and plans are compared."""

    metric: str
    temperature: float
    baseline: int

    def __post_init__(self) -> None:
        require_one_of("metric", ("shift", "kl", "cross_entropy", "accuracy"), self.metric)
        require(is_positive(self.temperature), "temperature", "a positive number", self.temperature)
        require(is_width(self.baseline), "baseline", A_WIDTH, self.baseline)


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """How grids are calibrated and weights rounded, and on which images."""

    arithmetic: str
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
    SamplingOptions,
    SavedState,
)


@dataclass(kw_only=True)
class MixQConfig(QuantizationConfigMixin):
    """How to quantize, and, once that is done, what was done.

    Args:
        bits: 2..8, the average over all weights, with no more bit operations than uniform bits would take. (weight
            bits, activation bits) sets them apart, a fraction lies between two widths, None leaves it to the other
            budgets.
        size_mb: megabytes (10^6 bytes) of the saved `model.safetensors`, at most.
        bops: bit operations per image, at most.
        candidate_bits: what units may choose from; by default one less than `bits` to two more.
        tie_bits: one number for a unit's weights and activations, which takes fewer measurements; False chooses them
            apart.
        overrides: bits of units by pattern, such as {"*.fc2": 8}.
        exclude: patterns of units that keep the most candidate bits.
        alpha: exponent of relevance in relevance^alpha x sensitivity; 0 ignores relevance.
        compare: pack the best plans by several objectives, and uniform bits, and keep what stays nearest to the float
            model on the images of sensitivity; False keeps the best plan by `alpha` alone.
        score: how relevance is summed: "absolute", "signed", "mean" or "gradient".
        metric: of sensitivity: "shift", KL(baseline || quantized), "kl", KL(float || quantized), or with labels
            "cross_entropy" or "accuracy".
        temperature: what logits are divided by for "shift" and "kl", and to compare plans: at 1 the few images that
            the model is undecided on say nearly everything, at 4 all have a say.
        solver: "highs" or "cbc".
        baseline: uniform bits around which sensitivity is measured: from there one unit at a time goes to each
            candidate.
        sensitivity_samples: unlabelled images for relevance and sensitivity.
        arithmetic: "column" keeps one activation scale per channel and multiplies with an 8-bit operand; "folded" is
            the paper's, where activation scales are absorbed before the weight is rounded, and b-bit codes multiply
            b-bit codes.
        calibration_samples: images that set the ranges.
        batch_size: images per forward.
        seed: draws the images.
        input_search: search each activation channel's range for the least error; False takes minimum and maximum.
        level: at more than 4 bits, give quiet input channels larger steps, for the integers that multiply them.
        weight_search: likewise for the weight's rows.
        correction: move each weight, in closed form, to mend what its quantized input does to its output.
        ridge: how strongly that is held back, relative to the inputs' mean variance.
        compensation: round weights column by column, later columns making up for earlier ones; False: to nearest.
        rounder: how weights are rounded, by name, instead of by `compensation`: "compensated", "nearest", or what was
            registered.
        clip: with "folded", clip the vectors of scales and zero points after each LayerNorm to their mean plus or
            minus this many standard deviations; "search" tries several, None clips nothing (RepQ-ViT).
        balance: even out the channels of query and key between the two, which is exact before rounding.
        trainable: the layers hold float weights with learned grids: a model in training, filled in likewise.
        plan: bits of each unit, filled in when a model is quantized.
        record: what was done, filled in likewise: the float model, the calibration images, package versions.
        digests: of the saved tensors, filled in when a model is saved and checked when it is loaded.
        format_version: of the saved model.
    """

    bits: int | float | tuple[int, int] | None = 4
    size_mb: float | None = None
    bops: float | None = None
    candidate_bits: tuple[int, ...] | None = None
    tie_bits: bool = False
    overrides: dict[str, int | tuple[int, int]] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    alpha: float = 1.0
    compare: bool = True
    score: Literal["absolute", "signed", "mean", "gradient"] = "absolute"
    metric: Literal["shift", "kl", "cross_entropy", "accuracy"] = "shift"
    temperature: float = 4.0
    solver: Literal["highs", "cbc"] = "highs"
    baseline: int = 8
    sensitivity_samples: int = 256
    arithmetic: str = "column"
    calibration_samples: int = 32
    batch_size: int = 32
    seed: int = 0
    input_search: bool = True
    level: bool = True
    weight_search: bool = True
    correction: bool = True
    ridge: float = 1.0
    compensation: bool = True
    rounder: str | None = None
    clip: float | Literal["search"] | None = "search"
    balance: bool = True
    trainable: bool = False
    plan: dict[str, Any] | None = None
    record: dict[str, Any] | None = None
    digests: str | None = None
    format_version: int = FORMAT_VERSION
    quant_method: str = QUANT_METHOD

    def __post_init__(self) -> None:
        for name in ("bits", "candidate_bits", "exclude"):
            if isinstance(getattr(self, name), list):
                setattr(self, name, tuple(getattr(self, name)))  # JSON has no tuples
        if isinstance(self.overrides, dict):
            self.overrides = {
                pattern: tuple(bits) if isinstance(bits, list) else bits for pattern, bits in self.overrides.items()
            }
        if isinstance(self.bits, float) and self.bits.is_integer():
            self.bits = int(self.bits)
        for group in GROUPS:
            self._group(group)
        if self.rounder is not None and self.plan is None:  # a model that has its plan runs without its rounder
            # Asked here: rounders register themselves, and know the options.
            from optimum_mixq.stages.calibration.rounders import rounder_names

            require_one_of("rounder", rounder_names(), self.rounder)

    @property
    def budget(self) -> BudgetOptions:
        return self._group(BudgetOptions)

    @property
    def relevance_options(self) -> RelevanceOptions:
        return self._group(RelevanceOptions)

    @property
    def sensitivity_options(self) -> SensitivityOptions:
        return self._group(SensitivityOptions)

    @property
    def calibration(self) -> CalibrationOptions:
        return self._group(CalibrationOptions)

    def _group(self, kind: type[Any]) -> Any:
        """Return the options of one group, checked."""
        return kind(**{option.name: getattr(self, option.name) for option in fields(kind)})

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Return the configuration of a dict; a key that is no option raises and names the nearest one."""
        known = {field.name for field in fields(cls)}
        version = config_dict.get("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise ValueError(
                f"This model is saved in mixq format {version}; this release of optimum-mixq reads format "
                f"{FORMAT_VERSION}. Upgrade with `pip install -U optimum-mixq`."
            )
        for key in config_dict:
            if key not in known:
                near = difflib.get_close_matches(key, sorted(known), n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"options are {', '.join(sorted(known))}."
                raise ValueError(f"MixQConfig has no option '{key}': {hint}")
        config = cls(**config_dict)
        unused = config.update(**kwargs)
        config.__post_init__()
        return (config, unused) if return_unused_kwargs else config


def _require_switches(options: Any, *names: str) -> None:
    for name in names:
        require(isinstance(getattr(options, name), bool), name, "True or False", getattr(options, name))


def _is_width_or_two(bits: Any) -> bool:
    return is_width(bits) or (isinstance(bits, tuple) and len(bits) == 2 and all(map(is_width, bits)))
