# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import copy

import pytest
import torch
from conftest import make_model

from optimum_mixq.architectures.describe import configured_image_size, describe, take_image_size
from optimum_mixq.tasks import run_model, task_of


@torch.no_grad()
def logits(model, pixels, **options):
    return task_of(model).logits(model, model(pixel_values=pixels, **options))


@pytest.mark.parametrize("name", ["vit", "deit", "deit_with_teacher", "vit_msn", "ijepa"])
@pytest.mark.parametrize("size", [(24, 24), (16, 16), (12, 20), (23, 9)])
def test_a_model_that_took_an_image_size_does_what_transformers_does_for_one_forward(name, size):
    model = make_model(name)
    resized = copy.deepcopy(model)
    take_image_size(resized, size)
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).to(model.device)
    expected = logits(model, pixels, interpolate_pos_encoding=True)
    torch.testing.assert_close(logits(resized, pixels), expected)
    assert configured_image_size(resized) == size and configured_image_size(model) == (16, 16)
    assert describe(resized) == describe(model)


def test_a_model_without_a_classifier_takes_an_image_size_too():
    model = make_model("vit").base_model
    resized = copy.deepcopy(model)
    take_image_size(resized, (24, 20))
    pixels = torch.randn(2, 3, 24, 20, generator=torch.Generator().manual_seed(0)).to(model.device)
    with torch.no_grad():
        expected = model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
        torch.testing.assert_close(resized(pixel_values=pixels).last_hidden_state, expected)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_vision_tower_takes_a_size_as_transformers_does_for_one_forward(name):
    model = make_model(name)
    resized = copy.deepcopy(model)
    take_image_size(resized, (24, 24))
    pixels = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0)).to(model.device)
    expected = logits(model, pixels, interpolate_pos_encoding=True)
    torch.testing.assert_close(logits(resized, pixels), expected)
    assert configured_image_size(resized) == (24, 24) and configured_image_size(model) == (16, 16)
    with pytest.raises(
        ValueError, match="Expected square images, since the configuration of a .* has one side, found"
    ):
        take_image_size(resized, (24, 16))


@pytest.mark.parametrize("name", ["beit", "dinov2", "dinov2_with_registers", "dinov3", "yolos", "depth_anything"])
@pytest.mark.parametrize("size", [(24, 24), (12, 20)])
def test_a_model_that_takes_any_size_needs_no_change(name, size):
    model = make_model(name)
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).to(model.device)
    with torch.no_grad():
        expected = run_model(model, pixels)
        take_image_size(model, size)
        assert torch.equal(run_model(model, pixels), expected) and configured_image_size(model) == size


def test_a_detector_that_took_an_image_size_is_built_from_its_configuration():
    model = make_model("yolos")
    take_image_size(model, (24, 12))
    rebuilt = type(model)(model.config)
    rebuilt.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match=r"sides are multiples of the patch \(4 x 4\), since .* found 24 x 13 pixels"):
        take_image_size(model, (24, 13))


def test_a_swin_knows_its_new_padding():
    model = make_model("swin")
    take_image_size(model, (36, 36))
    padded = make_model("padded_swin")
    assert configured_image_size(model) == (36, 36)
    assert not all(norm.shift_foldable for norm in describe(model).norms)
    assert [norm.norm for norm in describe(model).norms] == [norm.norm for norm in describe(padded).norms]


def test_a_size_that_a_model_cannot_take_is_refused():
    with pytest.raises(ValueError, match=r"new ones of at least a patch \(4 x 4\), found 16 x 16 and 3 x 16 pixels"):
        take_image_size(make_model("vit"), (3, 16))
    with pytest.raises(ValueError, match="Expected images whose maps are no smaller than the model's window of 2"):
        take_image_size(make_model("swin"), (8, 8))
