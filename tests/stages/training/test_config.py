# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import dataclasses
import json
import math

import pytest

from optimum_mixq.stages.training.config import MixQTrainingConfig


COUNT = (0, -1, 2.5, "3", True, None)
COUNT_OR_NONE = (0, -1, 2.5, "3", True)
ABOVE_ZERO = (0, -1.0, math.nan, math.inf, "1", True, None, 10**400)
ZERO_OR_MORE = (-0.1, math.nan, math.inf, "1", True, None)
SHARE = (*ZERO_OR_MORE, 1.1)
BELOW_ONE = (*ZERO_OR_MORE, 1.0)

WRONG = {
    "epochs": (COUNT, "a positive whole number"),
    "batch_size": (COUNT, "a positive whole number"),
    "gradient_accumulation_steps": (COUNT, "a positive whole number"),
    "max_steps": (COUNT_OR_NONE, "a positive whole number or None"),
    "save_steps": (COUNT_OR_NONE, "a positive whole number or None"),
    "learning_rate": (ABOVE_ZERO[:-2], "a positive number, or None for what suits the bits"),
    "step_learning_rate": (ABOVE_ZERO[:-2], "a positive number, or None for what suits the bits"),
    "temperature": (ABOVE_ZERO, "a positive number"),
    "gradient_clip": (ABOVE_ZERO, "a positive number"),
    "weight_decay": (ZERO_OR_MORE, "zero or more"),
    "features": (ZERO_OR_MORE, "zero or more"),
    "mixup": (ZERO_OR_MORE, "zero or more"),
    "cutmix": (ZERO_OR_MORE, "zero or more"),
    "dampening": (ZERO_OR_MORE, "zero or more"),
    "distillation": (SHARE, "a number from 0 to 1"),
    "warmup": (SHARE, "a number from 0 to 1"),
    "shift": (SHARE, "a number from 0 to 1"),
    "ema": (BELOW_ONE, "a number from 0 to below 1"),
    "label_smoothing": (BELOW_ONE, "a number from 0 to below 1"),
    "flip": ((0, 1, "yes", None), "True or False"),
    "gradient_checkpointing": ((0, 1, "yes", None), "True or False"),
    "mixed_precision": (("fp8", None, 16, True), "'no', 'bf16' or 'fp16'"),
    "seed": ((-1, 0.5, "0", None, True), "a whole number from zero"),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (values, _) in WRONG.items() for value in values])
def test_a_wrong_value_says_what_is_right(name, value):
    with pytest.raises(ValueError) as raised:
        MixQTrainingConfig(**{name: value})
    assert str(raised.value) == f"Expected {name} to be {WRONG[name][1]}, found {value!r}."


def test_every_option_has_its_check():
    assert set(WRONG) == {field.name for field in dataclasses.fields(MixQTrainingConfig)}


def test_parts_of_a_batch_are_equal():
    with pytest.raises(ValueError, match=r"accumulation_steps to be a divisor of batch_size \(64\), found 3"):
        MixQTrainingConfig(gradient_accumulation_steps=3)


def test_the_recipe_is_frozen_and_survives_json():
    recipe = MixQTrainingConfig(learning_rate=2e-4, mixed_precision="bf16", max_steps=7)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.epochs = 3
    assert MixQTrainingConfig(**json.loads(json.dumps(dataclasses.asdict(recipe)))) == recipe


@pytest.mark.parametrize(
    ("bits", "rate", "step_rate"),
    [(2.0, 1e-3, 3e-5), (2.3, 1e-3, 3e-5), (2.5, 3e-4, 2e-4), (3.0, 3e-4, 2e-4), (8.0, 3e-4, 2e-4)],
)
def test_rates_that_are_left_open_suit_the_bits(bits, rate, step_rate):
    recipe = MixQTrainingConfig(epochs=3).for_bits(bits)
    assert (recipe.learning_rate, recipe.step_learning_rate, recipe.epochs) == (rate, step_rate, 3)


def test_rates_that_are_given_stay_what_they_are():
    assert MixQTrainingConfig(learning_rate=0.5).for_bits(2.0).learning_rate == 0.5
    assert MixQTrainingConfig(step_learning_rate=0.5).for_bits(3.0).step_learning_rate == 0.5
