# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Packed models that the first release of format 1 saved give the same logits in every later one.

`tests/checkpoints` holds them: random models of each family in both arithmetics, one with a mixed plan, and in
`expected.safetensors` images and what the models put out for them. They are never made again.
"""

from pathlib import Path

import pytest
import torch
from processors import sums_as_stored
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

import optimum_mixq  # noqa: F401  registers the method with transformers


FOLDER = Path(__file__).parents[1] / "checkpoints"
NAMES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())


def test_every_family_and_arithmetic_is_there():
    families = {f"{family}-{arithmetic}" for family in ("vit", "deit", "swin") for arithmetic in ("column", "folded")}
    assert set(NAMES) == families | {"vit-mixed"}
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 200_000


@sums_as_stored
@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_the_first_release_gives_the_same_logits(name):
    expected = load_file(FOLDER / "expected.safetensors")
    model = AutoModelForImageClassification.from_pretrained(FOLDER / name)
    with torch.no_grad():
        found = model(pixel_values=expected["pixel_values"]).logits
    torch.testing.assert_close(found, expected[name], rtol=1e-5, atol=1e-6)
