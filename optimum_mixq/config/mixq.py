# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The recipe: one flat, checked configuration that is saved with the model as its `quantization_config`."""

import difflib
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from transformers.utils.quantization_config import QuantizationConfigMixin

from optimum_mixq.config import options
from optimum_mixq.quant.softmax_grids import DEFAULT_SOFTMAX
from optimum_mixq.utils.checks import require_one_of


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
        alpha: exponent of relevance in relevance^alpha x sensitivity; 1 is the paper's objective, 0 ignores relevance.
        compare: pack the best plan by `alpha`, the best by sensitivity alone, and uniform bits, and keep what stays
            nearest to the float model on the images of sensitivity, uniform bits if they are nearer by more than a
            standard error; False keeps the best plan by `alpha`.
        score: how relevance is summed: "absolute", "signed", "mean", "gradient", or a registered score.
        relevance_stabiliser: share of absolute contributions that is added to sums whose terms may cancel; 0 is the
            rule of the reference implementation.
        relevance_samples: how many of the images of sensitivity relevance is measured on, at most.
        sensitivity: how it is found: "gradient" takes a few backward passes, "measured" swaps each unit's variants
            into the model and runs it. "fisher", "hawq" and "first-order" are other metrics from such passes, to
            compare with.
        metric: of sensitivity: "shift", KL(baseline || quantized), and with "measured" also "kl", KL(float ||
            quantized), or with labels "cross_entropy" or "accuracy".
        temperature: what logits are divided by for "shift" and "kl", and to compare plans: at 1 the few images that
            the model is undecided on say nearly everything, at 4 all have a say.
        solver: "highs" or "cbc".
        baseline: uniform bits around which sensitivity is measured: from there one unit at a time goes to each
            candidate.
        sensitivity_samples: unlabelled images to compare plans, and at most as many for sensitivity: from gradients, a
            plan is chosen on the first 64 of them, or 128 and so on, once their two halves lead to plans that are
            nearly as good.
        arithmetic: "column" keeps one activation scale per channel and multiplies with an 8-bit operand; "folded" is
            the paper's, where activation scales are absorbed before the weight is rounded, and b-bit codes multiply
            b-bit codes.
        softmax: what attention's softmax is rounded to. "log-sqrt2" has two steps per octave, and from 6 bits on more,
            "log2" one; "adaptive-log" has a base for each attention (AdaLog), "twin-uniform" fine equal steps next to
            zero and coarse ones above (PTQ4ViT), both chosen by the error of what attention puts out; "uniform" has
            equal steps.
        stem_and_head_bits: of the weights of patch embedding and heads, and of what the heads read: they stay outside
            the search for bits. Pixels have 8.
        calibration_samples: unlabelled images that set the ranges, at most. Bits are chosen with ranges from the first
            32 of them.
        batch_size: images per forward.
        seed: draws the images.
        input_search: search each activation channel's range for the least error; False takes minimum and maximum.
        level: at more than 4 bits, give quiet input channels larger steps, for the integers that multiply them.
        weight_search: likewise for the weight's rows.
        correction: move each weight, in closed form, to mend what its quantized input does to its output.
        ridge: how strongly that is held back, relative to the inputs' mean variance; in blocks that mend what those
            before them did (`reconstruction`), from 32 images, and less with the root of how many there are.
        compensation: round weights column by column, later columns making up for earlier ones; False: to nearest.
        rounder: how weights are rounded, by name, instead of by `compensation`: "compensated", "nearest", or what was
            registered.
        clip: with "folded", clip the vectors of scales and zero points after each LayerNorm to their mean plus or
            minus this many standard deviations; "search" tries several, None clips nothing (RepQ-ViT).
        balance: even out the channels of query and key between the two, which is exact before rounding.
        reconstruction: "light" has each block also mend what those before it did to the hidden states, in closed form
            and at no further cost; "full" has its weights and grids learn from the calibration images as well, which
            need no labels, before the next block is calibrated; with None a layer mends its own error alone, which is
            also where training starts unless blocks are to learn first.
        reconstruction_loss: what blocks learn by: "output" is the error of the block's output, "fisher" weights it by
            what each token and channel means to the logits, and "logits" adds the divergence of the logits that the
            float model makes of the block's output, which takes several times as long.
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
    alpha: float = 0.5
    compare: bool = True
    score: str = "absolute"
    relevance_stabiliser: float = 1e-2
    relevance_samples: int = 64
    sensitivity: str = "gradient"
    metric: str = "shift"
    temperature: float = 4.0
    solver: Literal["highs", "cbc"] = "highs"
    baseline: int = 8
    sensitivity_samples: int = 256
    arithmetic: str = "column"
    softmax: str = DEFAULT_SOFTMAX
    stem_and_head_bits: int = 8
    calibration_samples: int = 256
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
    reconstruction: str | None = "light"
    reconstruction_loss: str = "output"
    trainable: bool = False
    plan: dict[str, Any] | None = None
    record: dict[str, Any] | None = None
    digests: str | None = None
    format_version: int = options.FORMAT_VERSION
    quant_method: str = options.QUANT_METHOD

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
        for group in options.GROUPS:
            # A saved model also loads where what its plan was chosen by is not registered.
            if self.plan is None or group not in (options.RelevanceOptions, options.SensitivityOptions):
                self._group(group)
        if self.plan is None and self.rounder is not None:
            from optimum_mixq.stages.calibration.rounders import rounder_names

            require_one_of("rounder", rounder_names(), self.rounder)

    @property
    def budget(self) -> options.BudgetOptions:
        return self._group(options.BudgetOptions)

    @property
    def relevance_options(self) -> options.RelevanceOptions:
        return self._group(options.RelevanceOptions)

    @property
    def sensitivity_options(self) -> options.SensitivityOptions:
        return self._group(options.SensitivityOptions)

    @property
    def calibration(self) -> options.CalibrationOptions:
        return self._group(options.CalibrationOptions)

    @property
    def reconstruction_options(self) -> options.ReconstructionOptions:
        return self._group(options.ReconstructionOptions)

    def _group(self, kind: type[Any]) -> Any:
        """Return the options of one group, checked."""
        return kind(**{option.name: getattr(self, option.name) for option in fields(kind)})

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Return the configuration of a dict; a key that is no option raises and names the nearest one."""
        known = {field.name for field in fields(cls)}
        version = config_dict.get("format_version", options.FORMAT_VERSION)
        if version != options.FORMAT_VERSION:
            raise ValueError(
                f"This model is saved in mixq format {version}; this release of optimum-mixq reads format "
                f"{options.FORMAT_VERSION}. Upgrade with `pip install -U optimum-mixq`."
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
