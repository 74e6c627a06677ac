# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Models as people bring them, drawn at random, through the whole pipeline.

Each is compared with its sibling: the plain model of its family, of the same depth, in float32 and eval mode.
"""

import copy

import pytest
import torch
from conftest import DEVICE
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from optimum_mixq import MixQConfig, MixQQuantizer
from optimum_mixq.stages.calibration.blocks import calibrate
from optimum_mixq.stages.packing import pack


IMAGES = 12
PLAIN_CLASSES = {
    "vit": (ViTConfig, ViTForImageClassification),
    "deit": (DeiTConfig, DeiTForImageClassification),
    "deit_with_teacher": (DeiTConfig, DeiTForImageClassificationWithTeacher),
}
ACTIVATIONS = ["gelu", "gelu_new", "quick_gelu", "relu", "silu"]


@st.composite
def plain_models(draw):
    """Return the family, the options of its configuration, and the image size (height, width) of a ViT or DeiT."""
    patch = draw(st.sampled_from([4, 5, 7]))
    rows, columns = draw(st.integers(2, 4)), draw(st.integers(2, 4))
    size = (rows * patch + draw(st.integers(0, 1)), columns * patch)  # a rest that fills no patch is left out
    heads = draw(st.sampled_from([1, 2, 3]))
    options = {
        "image_size": size if draw(st.booleans()) else (size[1], size[1]),
        "patch_size": patch,
        "num_hidden_layers": draw(st.integers(1, 4)),
        "num_attention_heads": heads,
        "hidden_size": heads * draw(st.sampled_from([8, 12])),
        "intermediate_size": draw(st.sampled_from([20, 33, 48])),
        "qkv_bias": draw(st.booleans()),
        "num_channels": draw(st.sampled_from([1, 3])),
    }
    return draw(st.sampled_from(sorted(PLAIN_CLASSES))), options, options["image_size"]


@st.composite
def windowed_models(draw):
    stages = draw(st.integers(1, 4))
    window = draw(st.sampled_from([2, 3]))
    last = draw(st.integers(window, window + 1))
    patch = draw(st.sampled_from([1, 2]))
    odd = draw(st.integers(0, 1)) if stages > 1 else 0
    side = patch * (last * 2 ** (stages - 1) - odd)  # maps of odd sides are padded before merging
    if side > 40:
        side, patch = side // patch, 1
    options = {
        "image_size": side,
        "patch_size": patch,
        "embed_dim": draw(st.sampled_from([4, 8])),
        "depths": draw(st.lists(st.integers(1, 2), min_size=stages, max_size=stages)),
        "num_heads": [2**stage for stage in range(stages)],
        "window_size": window,
        "qkv_bias": draw(st.booleans()),
        "use_absolute_embeddings": draw(st.booleans()),
    }
    return "swin", options, (side, side)


@st.composite
def heads(draw):
    labels = draw(st.sampled_from([0, 1, 2, 7]))
    kinds = [None] if labels == 0 else ["regression", "multi_label_classification", None]
    return {"num_labels": labels, "problem_type": draw(st.sampled_from(kinds))}


def build(family, options):
    torch.manual_seed(0)
    if family == "swin":
        model = SwinForImageClassification(SwinConfig(**options))
    else:
        config, kind = PLAIN_CLASSES[family]
        model = kind(config(**options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * (0.3 if parameter.ndim == 1 else 0.1))
    return model.eval().to(DEVICE)


def images_of(options, size):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(IMAGES, options.get("num_channels", 3), *size, generator=generator).to(DEVICE)


def quantize(model, pixels, config, plan):
    quantizer = MixQQuantizer.from_pretrained(model)
    return quantizer, quantizer.quantize(config, pixels, plan=plan)


@torch.no_grad()
def relative_error(model, packed, pixels):
    reference = copy.deepcopy(model).eval()(pixel_values=pixels.to(model.dtype)).logits.double()
    found = packed(pixel_values=pixels.to(model.dtype)).logits.double()
    # One logit near zero is not held to a share of itself.
    return float((found - reference).norm() / max(reference.norm(), 0.3 * reference.numel() ** 0.5))


def check(family, options, size, head, activation, arithmetic, bits, plan, mode, dtype, tmp):
    config = MixQConfig(
        bits=bits, arithmetic=arithmetic, calibration_samples=8, sensitivity_samples=6, batch_size=5, compare=False,
        candidate_bits=(bits - 1, min(bits + 1, 8)),
    )  # fmt: skip
    sibling = build(family, options)
    pixels = images_of(options, size)
    _, packed_sibling = quantize(sibling, pixels, config, "uniform")
    model = build(family, {**options, **head, "hidden_act": activation, **mode})
    model = model.to(dtype).train(bool(mode))
    quantizer, packed = quantize(model, pixels, config, plan)
    assert model.training == bool(mode)

    # What is packed computes what was calibrated, and what is loaded computes what was packed.
    calibrated = calibrate(model.eval(), quantizer.plan, [pixels], config)
    again = pack(calibrated)
    with torch.no_grad():
        expected = calibrated(pixel_values=pixels.to(dtype)).logits.double()
        found = again(pixel_values=pixels.to(dtype)).logits.double()
        scale = expected.abs().mean() + 1e-6
        assert float((found - expected).abs().mean() / scale) < 0.05
        packed.save_pretrained(tmp)
        loaded = AutoModelForImageClassification.from_pretrained(tmp, device_map={"": DEVICE}, dtype=dtype)
        assert torch.equal(loaded(pixel_values=pixels.to(dtype)).logits, packed(pixel_values=pixels.to(dtype)).logits)

    limit = 2 * max(relative_error(sibling, packed_sibling, pixels), {8: 0.05, 6: 0.15, 4: 0.5}[bits])
    assert relative_error(model, packed, pixels) <= limit


variants = given(
    shape=st.one_of(plain_models(), windowed_models()),
    head=heads(),
    activation=st.sampled_from(ACTIVATIONS),
    arithmetic=st.sampled_from(["column", "folded"]),
    bits=st.sampled_from([4, 6, 8]),
    plan=st.sampled_from(["uniform", None]),
    mode=st.sampled_from([{}, {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.3}]),
    dtype=st.sampled_from([torch.float32, torch.float32, torch.float64]),
)
# An example takes half a second: shrinking a failure would take minutes, and its arguments tell enough.
COSTLY = settings(
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=(HealthCheck.function_scoped_fixture, HealthCheck.too_slow),
)


@settings(COSTLY, max_examples=10, derandomize=True)
@variants
def test_any_variant_is_quantized_as_well_as_its_sibling(
    shape, head, activation, arithmetic, bits, plan, mode, dtype, tmp_path
):
    check(*shape, head, activation, arithmetic, bits, plan, mode, dtype, tmp_path)


@pytest.mark.slow
@settings(COSTLY, max_examples=400)
@variants
def test_many_variants_are_quantized_as_well_as_their_siblings(
    shape, head, activation, arithmetic, bits, plan, mode, dtype, tmp_path
):
    check(*shape, head, activation, arithmetic, bits, plan, mode, dtype, tmp_path)


FULL_SIZE = {
    "vit-base": lambda: ViTForImageClassification(ViTConfig()),
    "deit-small": lambda: DeiTForImageClassification(
        DeiTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
    ),
    "swin-tiny": lambda: SwinForImageClassification(SwinConfig()),
    "swin-small": lambda: SwinForImageClassification(SwinConfig(depths=[2, 2, 18, 2])),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FULL_SIZE))
@pytest.mark.parametrize("plan", ["uniform", None])
def test_models_of_published_sizes_are_quantized_saved_loaded_and_evaluated(name, plan, tmp_path):
    torch.manual_seed(0)
    model = FULL_SIZE[name]().eval().to(DEVICE)
    nn.init.normal_(model.classifier.weight, std=0.2)  # logits that differ
    pixels = torch.randn(8, 3, 224, 224)
    config = MixQConfig(bits=6, calibration_samples=4, sensitivity_samples=1, tie_bits=True, candidate_bits=(5, 6, 7))
    quantizer = MixQQuantizer.from_pretrained(model)
    packed = quantizer.quantize(config, pixels, tmp_path / "out", plan)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "out", device_map={"": DEVICE})
    with torch.no_grad():
        expected = packed(pixel_values=pixels.to(DEVICE)).logits
        assert torch.equal(loaded(pixel_values=pixels.to(DEVICE)).logits, expected)
    # Random weights attend evenly, so that noise averages out and rounding does not: 0.1 to 0.35 even at 8 bits.
    assert relative_error(model, packed, pixels.to(DEVICE)) < 0.6
    assert quantizer.evaluate(torch.randn(8, 3, 224, 224))["quantized"].images == 8
