# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Activations that packed layers compute themselves."""

import copy

import pytest
import torch
from conftest import BUILDERS, PLAIN, make_model, random_pixels
from torch import nn
from transformers import ViTConfig, ViTForImageClassification
from transformers.activations import GELUActivation

from optimum_mixq.architectures import describe
from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import MixQConfig
from optimum_mixq.fusion import fuse_activations, separate_activations
from optimum_mixq.pipeline import quantize_model
from optimum_mixq.stages.calibration import calibrate
from optimum_mixq.stages.conversion import pack


def quantized(model):
    return quantize_model(model, BitPlan.uniform(model, 8), [random_pixels(model, 8)], MixQConfig(bits=8))


def activations(model):
    return [model.get_submodule(name) for block in describe(model).blocks for name in block.activations]


@torch.no_grad()
def logits(model, pixels):
    return model(pixel_values=pixels).logits


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_a_fused_model_computes_what_its_parts_do(name):
    model = make_model(name)
    pixels = [random_pixels(model, 8)]
    plan, config = BitPlan.uniform(model, 8), MixQConfig(bits=8)
    apart = pack(calibrate(model, plan, pixels, config))
    fused = copy.deepcopy(apart)
    fuse_activations(fused)
    assert all(isinstance(module, nn.Identity) for module in activations(fused))
    other = random_pixels(model, 5, seed=7)
    assert torch.allclose(logits(fused, other), logits(apart, other), atol=2e-3)


def test_layers_say_that_they_compute_an_activation(vit):
    model = quantized(vit)
    layers = [model.get_submodule(unit.modules[0]) for unit in describe(model).units if unit.kind == "fc1"]
    assert layers and all(str(layer).endswith("W8A8, folded, gelu)") for layer in layers)


def test_separating_gives_the_modules_back(vit):
    model = quantized(vit)
    pixels = random_pixels(vit, 5, seed=7)
    before = logits(model, pixels)
    separate_activations(model)
    assert all(isinstance(module, GELUActivation) for module in activations(model))
    assert torch.allclose(logits(model, pixels), before, atol=2e-3)
    fuse_activations(model)
    assert torch.equal(logits(model, pixels), before)


@pytest.mark.parametrize("activation", ["relu", "gelu_new"])
def test_other_activations_stay_modules(activation):
    model = ViTForImageClassification(ViTConfig(**PLAIN, hidden_act=activation)).eval()
    kind = type(activations(model)[0])
    assert all(type(module) is kind for module in activations(quantized(model)))


def test_a_model_that_was_dequantized_has_its_activations(vit, tmp_path):
    quantized(vit).save_pretrained(tmp_path)
    model = ViTForImageClassification.from_pretrained(tmp_path).dequantize()
    assert all(isinstance(module, GELUActivation) for module in activations(model))


def test_fusing_leaves_the_float_model_alone(vit):
    quantized(vit)
    assert all(isinstance(module, GELUActivation) for module in activations(vit))
