# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import copy

import pytest
import torch
from conftest import BUILDERS, make_model, random_pixels

from optimum_mixq.architectures.describe import describe
from optimum_mixq.architectures.skeletons import (
    Widths,
    insert_skeleton,
    packed_skeleton,
    tensors_with,
    trainable_skeleton,
)
from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import MixQConfig
from optimum_mixq.stages.calibration.blocks import calibrate
from optimum_mixq.stages.packing import make_trainable, pack


def layout(tensors):
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def mixed(model):
    """Return bits that differ from unit to unit."""
    return {unit.name: (2 + place % 7, 8 - place % 7) for place, unit in enumerate(describe(model).units)}


# The bits of the ends change shapes alone, and the arithmetic biases alone.
@pytest.mark.parametrize(("arithmetic", "ends"), [("column", 3), ("folded", 8)])
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_skeletons_have_the_tensors_that_quantizing_makes(name, arithmetic, ends):
    model = make_model(name)
    bits = mixed(model)
    config = MixQConfig(arithmetic=arithmetic, stem_and_head_bits=ends)
    calibrated = calibrate(model, BitPlan(bits), [random_pixels(model)], config)
    widths = Widths(bits, ends, arithmetic)
    for made, skeleton in (
        (pack(calibrated), packed_skeleton(model, widths, torch.device("meta"))),
        (make_trainable(calibrated), trainable_skeleton(model, widths)),
    ):
        assert layout(tensors_with(model, skeleton)) == layout(made.state_dict())
        filled = copy.deepcopy(model)
        insert_skeleton(filled, skeleton)
        assert layout(filled.state_dict()) == layout(made.state_dict())


@pytest.mark.parametrize("softmax", ["adaptive-log", "uniform"])
def test_skeletons_know_the_grid_of_softmax(softmax, vit):
    bits = mixed(vit)
    calibrated = calibrate(vit, BitPlan(bits), [random_pixels(vit)], MixQConfig(softmax=softmax))
    widths = Widths(bits, 8, "column", softmax)
    for made, skeleton in (
        (pack(calibrated), packed_skeleton(vit, widths, torch.device("meta"))),
        (make_trainable(calibrated), trainable_skeleton(vit, widths)),
    ):
        assert layout(tensors_with(vit, skeleton)) == layout(made.state_dict())


def test_a_skeleton_filled_with_a_packed_models_tensors_gives_its_logits(vit):
    bits, pixels = mixed(vit), random_pixels(vit)
    packed = pack(calibrate(vit, BitPlan(bits), [pixels], MixQConfig()))
    filled = copy.deepcopy(vit)
    insert_skeleton(filled, packed_skeleton(vit, Widths(bits, 8, "column")))
    filled.load_state_dict(packed.state_dict())
    with torch.no_grad():
        assert torch.equal(filled(pixel_values=pixels).logits, packed(pixel_values=pixels).logits)


def test_making_a_skeleton_leaves_the_model_alone(vit):
    before = layout(vit.state_dict())
    tensors_with(vit, packed_skeleton(vit, Widths(mixed(vit), 8, "folded")))
    assert layout(vit.state_dict()) == before
