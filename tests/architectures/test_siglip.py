# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import torch
import torch.nn.functional as F
from conftest import make_model, random_pixels
from transformers import AutoConfig, AutoModelForImageClassification

from optimum_mixq.architectures.describe import describe
from optimum_mixq.architectures.rules import Identity, MatrixProduct, PositiveLinear
from optimum_mixq.stages.relevance.propagation import relevance_rules


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


def test_a_tower_has_its_pooling_mlp_for_a_head():
    architecture = describe(make_model("siglip_vision"))
    assert architecture.heads == ("head.mlp.fc1", "head.mlp.fc2")
    assert architecture.left_float == ("head.attention.out_proj",)


def test_relevance_of_pooling_is_that_of_a_loop_over_images_and_heads():
    model = make_model("siglip_vision").double()
    attention, probe = model.head.attention, model.head.probe
    generator = torch.Generator().manual_seed(0)
    hidden, relevance = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(model.device)
        for shape in ((3, 7, 24), (3, 24))
    )
    (hidden, looped) = (hidden.clone().requires_grad_() for _ in range(2))
    with relevance_rules(model):
        output = attention(probe.repeat(3, 1, 1), hidden, hidden)[0][:, 0]
    with torch.no_grad():
        torch.testing.assert_close(output, attention(probe.repeat(3, 1, 1), hidden, hidden)[0][:, 0])
    (found,) = torch.autograd.grad(output, hidden, relevance)

    weight, bias = attention.in_proj_weight.detach(), attention.in_proj_bias.detach()
    query = F.linear(probe.detach()[0, 0], weight[:24], bias[:24])
    for image in range(3):
        parts = []
        for head in range(2):
            rows = [slice(start + 12 * head, start + 12 * head + 12) for start in (0, 24, 48)]
            key, value = (PositiveLinear.apply(looped[image], weight[row], bias[row]) for row in rows[1:])
            scores = PositiveLinear.apply(key, query[rows[0]][None] / 12**0.5, None)  # (T, 1)
            shares = Identity.apply(scores, lambda values: values.softmax(0))
            parts.append(MatrixProduct.apply(shares.mT, value)[0])
        pooled = PositiveLinear.apply(torch.cat(parts)[None], attention.out_proj.weight.detach(), None)
        pooled.backward(relevance[image][None])
    torch.testing.assert_close(found, looped.grad)
    torch.testing.assert_close(found.sum((1, 2)), relevance.sum(1))
