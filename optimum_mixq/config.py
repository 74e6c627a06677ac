# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The recipe: one flat, checked configuration that is saved with the model as its `quantization_config`."""

import difflib
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from transformers.utils.quantization_config import QuantizationConfigMixin

from optimum_mixq.utils.checks import is_number, is_positive, is_whole, require, require_one_of


QUANT_METHOD = "mixq"
FORMAT_VERSION = 1
# The name under which our attention function is registered, and the attention's submodule that holds its grids.
ATTENTION, ATTENTION_CHILD = "mixq", "mixq_attention"
# Patch embedding and classification heads stay outside the search.
STEM_AND_HEAD_BITS = 8
LARGEST_SEED = 2**63 - 1  # of torch's generators


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
        sensitivity: how it is found: "measured" swaps each unit's variants into the model and runs it, "gradient"
            takes a few backward passes instead.
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
    sensitivity: str = "measured"
    metric: str = "shift"
    temperature: float = 4.0
    solver: Literal["highs", "cbc"] = "highs"
    baseline: int = 8
    sensitivity_samples: int = 256
    arithmetic: Literal["column", "folded"] = "column"
    calibration_samples: int = 32
    batch_size: int = 32
    seed: int = 0
    input_search: bool = True
    level: bool = True
    weight_search: bool = True
    correction: bool = True
    ridge: float = 1.0
    compensation: bool = True
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
        if isinstance(self.bits, float) and self.bits.is_integer():
            self.bits = int(self.bits)
        self._check_budget()
        self._check_patterns()
        self._check_measuring()
        self._check_calibration()
        for name, known in _CHOICES.items():
            require_one_of(name, known, getattr(self, name))
        for name in _SWITCHES:
            require(isinstance(getattr(self, name), bool), name, "True or False", getattr(self, name))
        require(self.digests is None or isinstance(self.digests, str), "digests", "text or None", self.digests)
        for name in ("plan", "record"):
            value = getattr(self, name)
            require(value is None or isinstance(value, dict), name, "a dict or None", value)
        require(self.quant_method == QUANT_METHOD, "quant_method", f"'{QUANT_METHOD}'", self.quant_method)
        require(self.format_version == FORMAT_VERSION, "format_version", str(FORMAT_VERSION), self.format_version)

    def _check_budget(self) -> None:
        pair = isinstance(self.bits, tuple) and len(self.bits) == 2 and all(map(_is_width, self.bits))
        between = isinstance(self.bits, float) and 2 <= self.bits <= 8
        require(
            _is_width(self.bits) or pair or between or self.bits is None,
            "bits", "a width of 2 to 8, or (weight bits, activation bits), or None beside size_mb or bops", self.bits,
        )  # fmt: skip
        for name in ("size_mb", "bops"):
            value = getattr(self, name)
            require(value is None or is_positive(value), name, "a positive number", value)
        if self.tie_bits is True and pair and self.bits[0] != self.bits[1]:  # type: ignore[index]
            raise ValueError(
                f"Expected one number of bits with tie_bits=True, found {self.bits!r}. Leave out tie_bits."
            )
        if self.bits is None and self.size_mb is None and self.bops is None:
            raise ValueError("Expected a budget: bits, size_mb or bops, found None for all of them.")

    def _check_patterns(self) -> None:
        candidates = self.candidate_bits
        require(
            candidates is None
            or (isinstance(candidates, tuple) and len(candidates) > 0 and all(map(_is_width, candidates))),
            "candidate_bits", "widths of 2 to 8, such as (3, 4, 5, 6)", candidates,
        )  # fmt: skip
        require(
            isinstance(self.overrides, dict) and all(isinstance(pattern, str) for pattern in self.overrides),
            "overrides", "a dict of bits by pattern, such as {'*.fc2': 8}", self.overrides,
        )  # fmt: skip
        self.overrides = {
            pattern: tuple(bits) if isinstance(bits, list) else bits for pattern, bits in self.overrides.items()
        }
        for pattern, bits in self.overrides.items():
            both = isinstance(bits, tuple) and len(bits) == 2 and all(map(_is_width, bits))
            expected = "a width of 2 to 8, or (weight bits, activation bits)"
            require(_is_width(bits) or both, f"overrides['{pattern}']", expected, bits)
        require(
            isinstance(self.exclude, tuple) and all(isinstance(pattern, str) for pattern in self.exclude),
            "exclude", "a tuple of patterns, such as ('*.fc2',)", self.exclude,
        )  # fmt: skip

    def _check_measuring(self) -> None:
        # Asked here, since methods and metrics register themselves and stages know the configuration.
        from optimum_mixq.stages.sensitivity import method_names, metric_names

        require_one_of("sensitivity", method_names(), self.sensitivity)
        require_one_of("metric", metric_names(self.sensitivity), self.metric)
        require(_is_width(self.baseline), "baseline", "a width of 2 to 8", self.baseline)
        require(is_number(self.alpha, 0), "alpha", "zero or more", self.alpha)
        require(is_positive(self.temperature), "temperature", "a positive number", self.temperature)
        require(is_whole(self.seed, 0, LARGEST_SEED), "seed", "a whole number from zero", self.seed)
        for name in ("calibration_samples", "sensitivity_samples", "batch_size"):
            require(is_whole(getattr(self, name), 1), name, "a positive whole number", getattr(self, name))

    def _check_calibration(self) -> None:
        require(is_positive(self.ridge), "ridge", "a positive number", self.ridge)
        require(
            self.clip is None or self.clip == "search" or is_positive(self.clip),
            "clip", "a positive number of standard deviations, 'search' or None", self.clip,
        )  # fmt: skip

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


_CHOICES = {
    "arithmetic": ("column", "folded"),
    "score": ("absolute", "signed", "mean", "gradient"),
    "solver": ("highs", "cbc"),
}
_SWITCHES = (
    "tie_bits", "compare", "input_search", "level", "weight_search", "correction", "compensation", "balance",
    "trainable",
)  # fmt: skip


def _is_width(bits: Any) -> bool:
    return is_whole(bits, 2, 8)
