# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Norms and layers hand codes to what alone reads them, where kernels can, and the logits stay what they were."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import BUILDERS, make_model, random_pixels

from optimum_mixq import BitPlan, MixQConfig
from optimum_mixq.integration.fusion import hand_over_numbers, separate_activations, separate_products
from optimum_mixq.kernels import ReferenceKernel, registry
from optimum_mixq.pipeline import quantize_model
from optimum_mixq.quant.codes import quantize_columns
from optimum_mixq.quant.packed import PackedLinear


# Models whose activations are no exact GELU, or stand behind something else than a layer.
UNFUSED = (
    "gated_dinov2", "gated_dinov3", "clip", "clip_vision", "siglip", "siglip_vision", "segformer",
    "segmenting_segformer",
)  # fmt: skip


class HandingKernel(ReferenceKernel):
    """The reference, which puts out codes as a GPU's kernel does, and counts how often."""

    puts_out_codes, transparent = True, False
    products = norms = 0

    def multiply_to_codes(self, codes, rounding, activation):
        HandingKernel.products += 1
        values = self.multiply(codes, torch.float32, activation)
        return quantize_columns(values, rounding.multiplier, rounding.offset, rounding.bits)

    def normalize_to_codes(self, values, weight, bias, eps, rounding):
        HandingKernel.norms += 1
        values = F.layer_norm(values.float(), values.shape[-1:], weight.float(), bias.float(), eps)
        return quantize_columns(values, rounding.multiplier, rounding.offset, rounding.bits)


@pytest.fixture
def handing(monkeypatch):
    """Let a kernel that puts out codes multiply."""
    monkeypatch.setattr(registry, "KERNELS", [HandingKernel])
    monkeypatch.setattr(HandingKernel, "products", 0)
    monkeypatch.setattr(HandingKernel, "norms", 0)


def packed(name, bits=4, **options):
    model = make_model(name)
    config = MixQConfig(bits=bits, calibration_samples=8, **options)
    return quantize_model(model, BitPlan.uniform(model, bits), [random_pixels(model, 8)], config)


@torch.no_grad()
def logits(model, pixels):
    return model(pixel_values=pixels)[0]  # or hidden states


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_a_model_that_hands_over_codes_gives_the_same_logits(name, handing):
    model = packed(name)
    pixels = random_pixels(model, 3, seed=7)
    found = logits(model, pixels)
    products, norms = HandingKernel.products, HandingKernel.norms
    hand_over_numbers(model)
    assert torch.equal(logits(model, pixels), found)
    assert (HandingKernel.products, HandingKernel.norms) == (products, norms)
    fused = [layer for layer in model.modules() if isinstance(layer, PackedLinear) and layer.activation != "none"]
    assert products == len(fused) and (products > 0 or name in UNFUSED)
    assert (norms > 0) == (name != "swinv2")  # whose norms follow the layers


def test_norms_before_attention_products_and_mlps_hand_over(handing):
    model = packed("vit")
    logits(model, random_pixels(model, 3, seed=7))
    blocks = model.config.num_hidden_layers
    assert (HandingKernel.products, HandingKernel.norms) == (blocks, 2 * blocks)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_stay_halves(dtype, handing):
    model = packed("vit").to(dtype)
    pixels = random_pixels(model, 3, seed=7).to(dtype)
    found = logits(model, pixels)
    assert found.dtype == dtype and HandingKernel.products and HandingKernel.norms
    hand_over_numbers(model)
    expected = logits(model, pixels)
    # Codes come from float32 instead of from halves.
    assert (found - expected).abs().max() < 0.2 * expected.std()


def test_copies_hand_over_to_their_own_layers(handing):
    model = packed("vit")
    pixels = random_pixels(model, 3, seed=7)
    expected = logits(model, pixels)
    twin = copy.deepcopy(model)
    products = HandingKernel.products
    for buffer in model.buffers():
        buffer.zero_()
    del model
    assert torch.equal(logits(twin, pixels), expected) and HandingKernel.products == 2 * products


@pytest.mark.parametrize("separate", [separate_activations, separate_products])
def test_what_is_separated_takes_numbers(separate, handing):
    model = packed("vit")
    pixels = random_pixels(model, 3, seed=7)
    expected = logits(model, pixels)
    separate(model)
    assert torch.equal(logits(model, pixels), expected)


def test_autocast_keeps_numbers_between_norm_and_layer(handing):
    model = packed("vit")
    pixels = random_pixels(model, 3, seed=7)
    expected = logits(model, pixels)
    norms = HandingKernel.norms
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = logits(model, pixels)
    assert HandingKernel.norms == norms
    assert (found - expected).abs().max() < 0.2 * expected.std()


def test_a_compiled_model_hands_codes_between_layers_and_leaves_norms_to_the_compiler(handing):
    model = packed("vit")
    pixels = random_pixels(model, 3, seed=7)
    expected = logits(model, pixels)
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    found = logits(torch.compile(model, fullgraph=True, backend=keep), pixels)
    assert torch.equal(found, expected)
    targets = [str(node.target) for node in graphs[0].graph.nodes]
    assert sum("integer_codes" in target for target in targets) == model.config.num_hidden_layers
    assert HandingKernel.norms == 2 * model.config.num_hidden_layers  # of the eager forward


@pytest.mark.filterwarnings("ignore:.*:UserWarning:torch")
def test_an_exported_program_hands_over_numbers(handing):
    model = packed("vit")
    pixels = random_pixels(model, 3, seed=7)
    expected = logits(model, pixels)
    program = torch.export.export(model, (), {"pixel_values": pixels})
    assert not any("integer_codes" in str(node.target) for node in program.graph.nodes)
    assert torch.equal(logits(program.module(), pixels), expected)


def test_a_layer_on_another_device_gets_numbers(handing):
    model = packed("vit")
    layer = model.get_submodule("vit.layers.0.mlp.fc1")
    assert layer._next.rounding_of(torch.empty(1)) is not None
    assert layer._next.rounding_of(torch.empty(1, device="meta")) is None


def test_kernels_that_put_out_no_codes_say_so():
    kernel = packed("vit").get_submodule("vit.layers.0.mlp.fc1").ready_kernel()
    assert not kernel.puts_out_codes
    with pytest.raises(NotImplementedError, match=r"Kernel puts out no codes: ask its `puts_out_codes` first"):
        kernel.multiply_to_codes(torch.zeros(1, 24, dtype=torch.uint8), None, "none")
    with pytest.raises(NotImplementedError, match=r"Kernel puts out no codes: ask its `puts_out_codes` first"):
        kernel.normalize_to_codes(torch.zeros(1, 24), torch.ones(24), torch.ones(24), 1e-6, None)
