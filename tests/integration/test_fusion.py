# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Activations that packed layers compute themselves, and products that they compute together."""

import copy

import pytest
import torch
from conftest import BUILDERS, PLAIN, make_model, random_pixels
from torch import nn
from transformers import ViTConfig, ViTForImageClassification
from transformers.activations import GELUActivation

from optimum_mixq.architectures.describe import describe
from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import MixQConfig
from optimum_mixq.integration.fusion import (
    fuse_activations,
    join_products,
    separate_activations,
    separate_layers,
    separate_products,
)
from optimum_mixq.pipeline import quantize_model
from optimum_mixq.quant.joint import JointProduct
from optimum_mixq.quant.norms import RowLayerNorm
from optimum_mixq.stages.calibration.blocks import calibrate
from optimum_mixq.stages.packing import pack
from optimum_mixq.tasks import run_model


def quantized(model):
    return quantize_model(model, BitPlan.uniform(model, 8), [random_pixels(model, 8)], MixQConfig(bits=8))


def activations(model):
    return [model.get_submodule(each.module) for block in describe(model).blocks for each in block.activations]


@torch.no_grad()
def logits(model, pixels):
    return run_model(model, pixels)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_a_fused_model_computes_what_its_parts_do(name):
    model = make_model(name)
    pixels = [random_pixels(model, 8)]
    plan, config = BitPlan.uniform(model, 8), MixQConfig(bits=8)
    apart = pack(calibrate(model, plan, pixels, config))
    fused = copy.deepcopy(apart)
    fuse_activations(fused)
    exact = [isinstance(module, GELUActivation) for module in activations(apart)]
    assert [isinstance(module, nn.Identity) for module in activations(fused)] == exact
    # SiLU, x * sigmoid(1.702 x), GELU by tanh
    assert all(exact) or name in ("gated_dinov2", "gated_dinov3", "clip", "siglip", "clip_vision", "siglip_vision")
    other = random_pixels(model, 5, seed=7)
    assert torch.allclose(logits(fused, other), logits(apart, other), atol=2e-3)


def test_layers_say_that_they_compute_an_activation(vit):
    model = quantized(vit)
    layers = [model.get_submodule(unit.modules[0]) for unit in describe(model).units if unit.kind == "fc1"]
    assert layers and all(str(layer).endswith("W8A8, folded, gelu)") for layer in layers)


def test_a_gate_that_computes_its_activation_is_no_part_of_a_joint_product():
    model = make_model("gated_dinov2")
    for layer in model.dinov2.encoder.layer:
        layer.mlp.act_fn = GELUActivation()
    fused = quantized(model)
    for layer in fused.dinov2.encoder.layer:
        assert isinstance(layer.mlp.act_fn, nn.Identity) and layer.mlp.gate_proj.joint is None
        assert layer.attention.q_proj.joint is not None
    apart = copy.deepcopy(fused)
    separate_layers(apart)
    pixels = random_pixels(model, 5, seed=7)
    assert torch.allclose(logits(fused, pixels), logits(apart, pixels), atol=2e-3)


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


@pytest.mark.parametrize("name", ["deit", "swin"])
def test_norms_go_by_rows_until_a_model_is_dequantized(name):
    model = make_model(name)
    kinds = [type(module) for module in model.modules() if isinstance(module, nn.LayerNorm)]
    packed = quantized(model)
    assert {type(module) for module in packed.modules() if isinstance(module, nn.LayerNorm)} == {RowLayerNorm}
    separate_layers(packed)
    assert [type(module) for module in packed.modules() if isinstance(module, nn.LayerNorm)] == kinds
    assert all(type(module) is nn.LayerNorm for module in model.modules() if isinstance(module, nn.LayerNorm))


def joint_layers(model):
    unit = next(unit for unit in describe(model).units if unit.kind == "qkv")
    return [model.get_submodule(name) for name in unit.modules]


@pytest.mark.parametrize("name", ["vit", "padded_swin"])
@pytest.mark.parametrize("arithmetic", ["column", "folded"])
def test_a_joint_product_gives_each_layer_its_own_output_to_the_bit(name, arithmetic):
    model = make_model(name)
    config = MixQConfig(bits=4, arithmetic=arithmetic)
    apart = pack(calibrate(model, BitPlan.uniform(model, 4), [random_pixels(model, 8)], config))
    joined = copy.deepcopy(apart)
    join_products(joined)
    layers, alone = joint_layers(joined), joint_layers(apart)
    rows, others = torch.randn(2, 7, layers[0].in_features), torch.randn(2, 7, layers[0].in_features)
    for order in ((0, 1, 2), (2, 1, 0), (1,)):
        for place in order:
            assert torch.equal(layers[place](rows), alone[place](rows))
    assert torch.equal(layers[0](rows), alone[0](rows)) and torch.equal(layers[1](others), alone[1](others))
    pixels = random_pixels(model, 5, seed=7)
    assert torch.equal(logits(joined, pixels), logits(apart, pixels))


def test_a_joint_product_keeps_nothing_after_the_last_layer(vit):
    model = quantized(vit)
    logits(model, random_pixels(vit, 2))
    first, second, third = joint_layers(model)
    assert first.joint.waiting == ()
    rows = torch.randn(2, 7, first.in_features)
    first(rows)
    assert first.joint.waiting == (1, 2)
    second(rows), third(rows)
    assert first.joint.waiting == ()


def test_what_changed_in_place_is_multiplied_anew(vit):
    layers = joint_layers(quantized(vit))
    rows = torch.randn(3, layers[0].in_features)
    before = [layer(rows) for layer in layers]
    rows.neg_()
    assert not any(torch.equal(layer(rows), old) for layer, old in zip(layers, before, strict=True))
    for place in (1, 2):  # a layer alone, too, also when the first one's outputs were kept
        for first in (layers[place], layers[0]):
            first(rows)
            before = layers[place](rows)
            rows.neg_()
            assert not torch.equal(layers[place](rows), before)


def test_copies_pickles_and_moved_models_multiply_jointly(vit, tmp_path):
    model = quantized(vit)
    pixels = random_pixels(vit, 3, seed=7)
    expected = logits(model, pixels)
    torch.save(model, tmp_path / "model.pt")
    for other in (copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)):
        joint = joint_layers(other)[0].joint
        assert joint is not None and all(a is b for a, b in zip(joint.layers, joint_layers(other), strict=True))
        assert torch.equal(logits(other, pixels), expected)
    assert torch.equal(logits(copy.deepcopy(model).to(torch.float64).to(torch.float32), pixels), expected)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    state["vit.layers.0.attention.k_proj.weight"].zero_()
    model.load_state_dict(state)
    assert not torch.equal(logits(model, pixels), expected)


def test_layers_on_different_grids_multiply_alone(vit):
    model = quantized(vit)
    separate_products(model)
    layers = joint_layers(model)
    assert all(layer.joint is None for layer in layers)
    layers[1].mixq_input_zero_point.add_(1)
    join_products(model)
    assert all(layer.joint is None for layer in layers)


def test_a_layer_has_an_activation_or_joins_others_not_both(vit):
    model = quantized(vit)
    layers = joint_layers(model)
    with pytest.raises(ValueError, match="Expected a layer that multiplies alone, found one in a joint product"):
        layers[0].fuse("gelu")
    separate_products(model)
    layers[1].fuse("gelu")
    with pytest.raises(ValueError, match="Expected layers without an activation to join, found 'gelu'"):
        JointProduct(layers)
    before = [layer.activation for layer in layers]
    join_products(model)
    assert [layer.activation for layer in layers] == before
