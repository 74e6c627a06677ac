# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import copy
import dataclasses
import functools

import pytest
import torch
from conftest import BUILDERS, make_model, random_pixels
from transformers import ViTConfig, ViTForImageClassification

from optimum_mixq.architectures.describe import describe
from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import MixQConfig
from optimum_mixq.quant.layers import QuantConv2d, QuantLinear
from optimum_mixq.stages.calibration.blocks import _split_batches, calibrate, calibrate_variants
from optimum_mixq.stages.calibration.reparameterization import balance
from optimum_mixq.stages.evaluation import score
from optimum_mixq.stages.packing import pack
from optimum_mixq.tasks import run_model, task_of
from optimum_mixq.utils.bits import Bits


FAMILIES = pytest.mark.parametrize("name", sorted(BUILDERS))


def calibrated(model, bits=8, batches=1, **options):
    plan = BitPlan(mixed_bits(model)) if bits == "mixed" else BitPlan.uniform(model, bits)
    return calibrate(model, plan, random_pixels(model, 16).chunk(batches), MixQConfig(**options))


@functools.cache
def calibrated_once(name, bits=8, batches=1, arithmetic="column"):
    """Return the same model to all tests, which run it and change nothing in it."""
    return calibrated(make_model(name), bits, batches, arithmetic=arithmetic)


def mixed_bits(model):
    units = describe(model).units
    return {unit.name: (2 + index % 7, 8 - index % 7) for index, unit in enumerate(units)}


@torch.no_grad()
def logits(model, pixels):
    return run_model(model, pixels)


@pytest.mark.parametrize("arithmetic", ["column", "folded"])
@FAMILIES
def test_eight_bits_stay_close_to_the_float_model(name, arithmetic):
    model = make_model(name)
    pixels = random_pixels(model, 16)
    result = score(
        logits(calibrated_once(name, 8, arithmetic=arithmetic), pixels), None, logits(model, pixels), task_of(model)
    )
    assert result.kl < 0.01


def test_batches_are_even_and_bounded_by_what_the_patch_embedding_puts_out():
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = ViTForImageClassification(ViTConfig(**sizes))
    parts = _split_batches(model, describe(model), [torch.zeros(10, 3, 224, 224), torch.zeros(3, 3, 224, 224)])
    assert [len(part) for part in parts] == [4, 4, 2, 3]  # 197 x 768 values an image
    model = ViTForImageClassification(ViTConfig(**sizes, hidden_size=384, patch_size=4, image_size=32))
    small = _split_batches(model, describe(model), [torch.zeros(32, 3, 32, 32)])
    assert [len(part) for part in small] == [16, 16]


@FAMILIES
def test_more_bits_are_closer(name):
    model = make_model(name)
    pixels = random_pixels(model, 16)
    reference = logits(model, pixels)
    task = task_of(model)
    damage = [score(logits(calibrated_once(name, bits), pixels), None, reference, task).kl for bits in (2, 3, 8)]
    assert damage[0] > damage[1] > damage[2]


def test_the_float_model_is_left_as_it_is(model):
    logits(model, random_pixels(model))  # transformers adds hooks of its own at the first forward
    before, hooks = copy.deepcopy(model.state_dict()), count_hooks(model)
    implementation = model.config._attn_implementation
    calibrated(model, 4, arithmetic="folded")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.config._attn_implementation == implementation
    assert count_hooks(model) == hooks


def count_hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@FAMILIES
def test_every_linear_layer_and_convolution_is_quantized_with_its_units_bits(name):
    architecture, plan = describe(make_model(name)), mixed_bits(make_model(name))
    quantized = calibrated_once(name, "mixed")
    for unit in architecture.units:
        for name in unit.modules:
            layer = quantized.get_submodule(name)
            assert (layer.weight_bits, layer.input_bits) == plan[unit.name]
    for name in architecture.heads:
        assert isinstance(quantized.get_submodule(name), QuantLinear)
        assert quantized.get_submodule(name).weight_bits == 8
    assert architecture.stem is None or isinstance(quantized.get_submodule(architecture.stem), QuantConv2d)
    for block in architecture.blocks:
        if block.attention:
            operands = quantized.get_submodule(block.attention).mixq_attention
            assert operands.qk_bits == plan[f"{block.name}.qk"][1] and operands.av_bits == plan[f"{block.name}.av"][1]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("arithmetic", ["column", "folded"])
def test_the_packed_model_gives_the_same_logits_to_the_bit(bits, arithmetic):
    vit = make_model("vit")
    quantized = calibrated(vit, bits, arithmetic=arithmetic)
    pixels = random_pixels(vit, 6, seed=9)
    assert torch.equal(logits(pack(quantized), pixels), logits(quantized, pixels))


@FAMILIES
@pytest.mark.parametrize("bits", [3, "mixed"])
def test_every_family_packs_to_the_same_logits(name, bits):
    quantized = calibrated_once(name, bits)
    pixels = random_pixels(quantized, 6, seed=9)
    assert torch.equal(logits(pack(quantized), pixels), logits(quantized, pixels))


@FAMILIES
def test_batches_change_little(name):
    model = make_model(name)
    pixels = random_pixels(model, 16)
    whole, parts = (logits(calibrated_once(name, 8, batches), pixels) for batches in (1, 2))
    spread = logits(model, pixels).std()
    assert (whole - parts).abs().mean() < 0.05 * spread


def test_the_same_images_give_the_same_model_twice(vit):
    first, second = calibrated(vit, 4).state_dict(), calibrated(vit, 4).state_dict()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_evaluation_does_not_move_a_grid(vit):
    quantized = calibrated(vit, 4)
    before = copy.deepcopy(quantized.state_dict())
    logits(quantized, 100 * random_pixels(vit))
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantized.state_dict().items())


def test_balancing_query_and_key_leaves_attention_alone(vit):
    layer = vit.vit.layers[0].attention
    hidden = torch.randn(3, 7, 24)

    def attend():
        query, key = (
            projection(hidden).view(3, 7, 2, 12).transpose(1, 2) for projection in (layer.q_proj, layer.k_proj)
        )
        return (query @ key.mT * layer.scaling).softmax(-1)

    with torch.no_grad():
        before, queries, keys = attend(), layer.q_proj(hidden), layer.k_proj(hidden)
        promised = balance(layer.q_proj, layer.k_proj, [queries], [keys])
        assert torch.allclose(attend(), before, atol=1e-5)
        assert torch.allclose(promised[0][0], layer.q_proj(hidden), atol=1e-5)
        assert torch.allclose(promised[1][0], layer.k_proj(hidden), atol=1e-5)
        largest = [batch.flatten(0, 1).abs().amax(0) for batch in (promised[0][0], promised[1][0])]
        assert torch.allclose(*largest, rtol=1e-3)


def test_a_model_in_half_precision_is_refused(vit):
    with pytest.raises(ValueError, match=r"Expected a float32 model to calibrate, found torch.bfloat16 in vit"):
        calibrated(vit.to(torch.bfloat16))


def test_weights_that_are_not_finite_raise_with_their_name(vit):
    vit.vit.layers[1].mlp.fc2.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"Expected finite numbers in vit.layers.1.mlp.fc2.weight, found NaN values"):
        calibrated(vit)


def test_images_that_are_not_finite_raise(vit):
    pixels = random_pixels(vit)
    pixels[0, 0, 0, 0] = float("inf")
    with pytest.raises(ValueError, match=r"Expected finite numbers in the input of .*projection, found infinite"):
        calibrate(vit, BitPlan.uniform(vit, 4), [pixels], MixQConfig())


def test_a_plan_of_another_model_is_refused(vit):
    plan = BitPlan.uniform(make_model("swin"), 4)
    with pytest.raises(ValueError, match=r"The plan names the unit 'stages.0.blocks.0.av', which the model does not"):
        calibrate(vit, plan, [random_pixels(vit)], MixQConfig())


def test_packing_what_was_not_calibrated_is_refused(vit):
    with pytest.raises(ValueError, match="Expected a calibrated model, found no quantized layer in it"):
        pack(vit)


@pytest.mark.parametrize("arithmetic", ["column", "folded"])
def test_bits_that_are_calibrated_together_are_what_each_is_alone(vit, arithmetic):
    images, config, uniform = [random_pixels(vit, 4)], MixQConfig(arithmetic=arithmetic), BitPlan.uniform(vit, 8)

    def weights(candidates):
        _, variants = calibrate_variants(vit, uniform, images, config, candidates)
        return {
            (unit, bits, name): module.weight
            for unit, row in variants.items()
            for bits, modules in row.items()
            for name, module in modules.items()
            if isinstance(module, QuantLinear)
        }

    candidates = [Bits(3, 8), Bits(8, 4), Bits(5, 8), Bits(8, 3), Bits(3, 4)]
    together = weights(candidates)
    alone = {key: weight for bits in candidates for key, weight in weights([bits]).items()}
    assert list(alone) != list(together) and set(alone) == set(together)
    assert all(torch.equal(weight, alone[key]) for key, weight in together.items())


def test_a_weight_of_the_most_bits_is_rounded_to_nearest_where_only_its_input_changes(vit):
    images, config, uniform = [random_pixels(vit, 4)], MixQConfig(correction=False), BitPlan.uniform(vit, 8)
    _, variants = calibrate_variants(vit, uniform, images, config, [Bits(8, 3), Bits(3, 8)])
    nearest = dataclasses.replace(config, compensation=False)
    _, expected = calibrate_variants(vit, uniform, images, nearest, [Bits(8, 3), Bits(3, 8)])
    unit = describe(vit).blocks[0].units[0].name  # what is in front of others is rounded in two ways here
    for bits, modules in variants[unit].items():
        for name, module in modules.items():
            assert torch.equal(module.weight, expected[unit][bits][name].weight) == (bits == (8, 3))
