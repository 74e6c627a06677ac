# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import contextlib

import pytest
import torch
from conftest import WINDOWED, make_model, random_pixels
from transformers import SwinConfig, SwinForImageClassification

from optimum_mixq.architectures import measuring as measuring_module
from optimum_mixq.architectures.measuring import measuring, threads_for


def test_every_module_has_its_own_mode_back_also_after_an_error(vit):
    vit.train()
    vit.vit.layers[1].eval()
    modes = [module.training for module in vit.modules()]
    with pytest.raises(RuntimeError, match="stop"), measuring(vit):
        assert not any(module.training for module in vit.modules())
        raise RuntimeError("stop")
    assert [module.training for module in vit.modules()] == modes and True in modes and False in modes


@torch.no_grad()
def test_small_images_do_not_stop_a_swin_from_shifting_windows_on_large_ones():
    torch.manual_seed(0)
    swin = SwinForImageClassification(SwinConfig(**WINDOWED | {"image_size": 32, "depths": [1, 1, 1, 2]})).eval()
    large = random_pixels(swin, 2).repeat(1, 1, 2, 2)  # maps of 4 x 4 in the last stage: two windows of 2 each way
    with measuring(swin):
        expected = swin(pixel_values=large).logits
    with measuring(swin):
        swin(pixel_values=random_pixels(swin, 2))
    assert torch.equal(swin(pixel_values=large).logits, expected)


def test_a_model_in_train_mode_gives_dropout_outside_only(vit):
    vit = make_model("vit")
    for module in vit.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    pixels = random_pixels(vit)
    expected = vit(pixel_values=pixels).logits
    vit.train()
    with measuring(vit):
        assert torch.equal(vit(pixel_values=pixels).logits, expected)
    assert not torch.equal(vit(pixel_values=pixels).logits, expected)


@pytest.mark.parametrize(("pixels", "images"), [(8 * 224**2, 8), (3 * 16 * 16, 3), (10, 1)])
def test_fewer_large_images_are_timed(vit, monkeypatch, pixels, images):
    taken = []
    monkeypatch.setattr(measuring_module, "TIMED_PIXELS", pixels)
    monkeypatch.setattr(measuring_module, "fitting_threads", lambda run, model: contextlib.nullcontext(run()))
    vit.register_forward_pre_hook(lambda _, __, options: taken.append(len(options["pixel_values"])), with_kwargs=True)
    vit.to("cpu")
    with threads_for(vit):
        assert taken == [images]
