# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""How a packed model is made again: the options that were chosen, and the command that says the same."""

import dataclasses
import shlex
from typing import Any

from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import MixQConfig, SavedState
from optimum_mixq.tasks import Task


# Options that `optimum-cli mixq quantize` has words for; a test compares them with those of its parser.
OPTIONS_WITH_WORDS = {
    "arithmetic", "batch_size", "bits", "bops", "calibration_samples", "candidate_bits", "exclude", "overrides",
    "reconstruction", "rounder", "seed", "sensitivity", "sensitivity_samples", "size_mb", "tie_bits",
}  # fmt: skip
# Of options that are names, those that the shell knows: more may be registered from Python. A test compares them, too.
NAMES_WITH_WORDS: dict[str, tuple[str, ...]] = {
    "arithmetic": ("column", "folded"),
    "reconstruction": ("light", "full", "none"),
    "rounder": ("compensated", "nearest"),
    "sensitivity": ("measured", "gradient", "fisher", "hawq", "first-order"),
}


def changed_options(config: MixQConfig) -> dict[str, Any]:
    """Return the options that are not their defaults, without what quantization filled in; bits always.

    >>> changed_options(MixQConfig(bits=3))
    {'bits': 3}
    """
    filled_in = {option.name for option in dataclasses.fields(SavedState)}
    found = {}
    for option in dataclasses.fields(config):
        default = option.default if option.default_factory is dataclasses.MISSING else option.default_factory()
        value = getattr(config, option.name)
        if option.name not in filled_in and (value != default or option.name == "bits"):
            found[option.name] = value
    return found


def write_command(
    config: MixQConfig, plan: BitPlan, base: str, dataset: str, hub_task: str = Task.hub_task
) -> str | None:
    """Return the command that makes a packed model again, or None where the shell has no words for its options."""
    options = changed_options(config)
    if not all(_has_words(name, value) for name, value in options.items()):
        return None
    words = ["optimum-cli", "mixq", "quantize", "--model", base, "--dataset", dataset, "--output", "out"]
    if hub_task != Task.hub_task:
        words += ["--task", hub_task]
    for name, value in options.items():
        words += _words_of(name, value)
    return shlex.join([*words, "--plan", "uniform"] if plan.provenance.get("kind") == "uniform" else words)


def _has_words(name: str, value: Any) -> bool:
    names = NAMES_WITH_WORDS.get(name)
    return name in OPTIONS_WITH_WORDS and (names is None or _words_of(name, value)[1] in names)


def _words_of(name: str, value: Any) -> list[str]:
    """Return the words that stand for one option."""
    word = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [word]
    if isinstance(value, dict):
        return [part for pattern, bits in value.items() for part in (word, f"{pattern}={_text_of(bits)}")]
    if name == "exclude":
        return [part for pattern in value for part in (word, pattern)]
    if name == "candidate_bits":
        return [word, ",".join(map(str, value))]
    return [word, "none" if value is None else _text_of(value)]


def _text_of(value: Any) -> str:
    """Return bits as the shell writes them: 4/8 for a pair."""
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)
