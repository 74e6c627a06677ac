# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The recipe: one flat, checked configuration that is saved with the model as its `quantization_config`."""

import difflib
from dataclasses import dataclass, fields
from typing import Any, Literal

from transformers.utils.quantization_config import QuantizationConfigMixin


QUANT_METHOD = "mixq"
FORMAT_VERSION = 1
# The name under which our attention function is registered, and the attention's submodule that holds its grids.
ATTENTION, ATTENTION_CHILD = "mixq", "mixq_attention"
# Patch embedding and classification heads stay outside the search.
STEM_AND_HEAD_BITS = 8


@dataclass(kw_only=True)
class MixQConfig(QuantizationConfigMixin):
    """How to quantize, and, once that is done, what was done.

    Args:
        bits: width of weights and activations of every unit: one number 2..8, or (weight bits, activation bits).
        arithmetic: "column" keeps one activation scale per channel and multiplies with an 8-bit operand; "folded" is
            the paper's, where activation scales are absorbed before the weight is rounded, and b-bit codes multiply
            b-bit codes.
        calibration_samples: images that set the ranges.
        batch_size: images per forward.
        seed: draws the images.
        input_search: search each activation channel's range for the least error; False takes minimum and maximum.
        weight_search: likewise for the weight's rows.
        correction: move each weight, in closed form, to mend what its quantized input does to its output.
        ridge: how strongly that is held back, relative to the inputs' mean variance.
        compensation: round weights column by column, later columns making up for earlier ones; False: to nearest.
        clip: with "folded", clip the vectors of scales and zero points after each LayerNorm to their mean plus or
            minus this many standard deviations; "search" tries several, None clips nothing (RepQ-ViT).
        balance: even out the channels of query and key between the two, which is exact before rounding.
        plan: bits of each unit, filled in when a model is quantized.
        format_version: of the saved model.
    """

    bits: int | tuple[int, int] = 4
    arithmetic: Literal["column", "folded"] = "column"
    calibration_samples: int = 32
    batch_size: int = 32
    seed: int = 0
    input_search: bool = True
    weight_search: bool = True
    correction: bool = True
    ridge: float = 1.0
    compensation: bool = True
    clip: float | Literal["search"] | None = "search"
    balance: bool = True
    plan: dict[str, Any] | None = None
    format_version: int = FORMAT_VERSION
    quant_method: str = QUANT_METHOD

    def __post_init__(self) -> None:
        if isinstance(self.bits, list):
            self.bits = tuple(self.bits)  # JSON has no tuples
        widths = self.bits if isinstance(self.bits, tuple) else (self.bits,)
        _require(
            all(isinstance(bits, int) and 2 <= bits <= 8 for bits in widths) and len(widths) <= 2,
            "bits", "a width of 2 to 8, or (weight bits, activation bits)", self.bits,
        )  # fmt: skip
        _require(self.arithmetic in ("column", "folded"), "arithmetic", "'column' or 'folded'", self.arithmetic)
        for name in ("calibration_samples", "batch_size"):
            value = getattr(self, name)
            _require(isinstance(value, int) and value >= 1, name, "a positive whole number", value)
        _require(isinstance(self.ridge, (int, float)) and self.ridge > 0, "ridge", "a positive number", self.ridge)
        _require(
            self.clip is None or self.clip == "search" or (isinstance(self.clip, (int, float)) and self.clip > 0),
            "clip", "a positive number of standard deviations, 'search' or None", self.clip,
        )  # fmt: skip
        _require(self.quant_method == QUANT_METHOD, "quant_method", f"'{QUANT_METHOD}'", self.quant_method)

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
        return (config, unused) if return_unused_kwargs else config


def _require(holds: bool, name: str, expected: str, found: Any) -> None:
    if not holds:
        raise ValueError(f"Expected {name} to be {expected}, found {found!r}.")
