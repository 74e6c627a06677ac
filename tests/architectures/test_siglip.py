# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import torch
from conftest import make_model, random_pixels
from transformers import AutoConfig, AutoModelForImageClassification

from optimum_mixq.architectures.describe import describe


def test_its_pooling_head_is_left_float_and_can_be_left_out_when_it_is_loaded(tmp_path):
    model = make_model("siglip")
    head = "vision_model.head"
    assert describe(model).left_float == (f"{head}.attention.out_proj", f"{head}.mlp.fc1", f"{head}.mlp.fc2")
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    config.vision_config.vision_use_head = False
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, config=config).to(model.device).eval()
    assert describe(loaded).left_float == ()
    pixels = random_pixels(model)
    with torch.no_grad():
        assert torch.equal(loaded(pixel_values=pixels).logits, model(pixel_values=pixels).logits)
