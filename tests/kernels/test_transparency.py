# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What torch.compile sees of a product: everything where torch multiplies, one operator elsewhere."""

import pytest
import torch
from conftest import make_model, random_pixels
from cuda_stand_in import strict_int_mm

from optimum_mixq import BitPlan, MixQConfig
from optimum_mixq.kernels import IntMMKernel, ReferenceKernel, TritonKernel, registry
from optimum_mixq.pipeline import quantize_model


def packed(kernel, monkeypatch):
    monkeypatch.setattr(registry, "KERNELS", [kernel])
    monkeypatch.setattr(kernel, "supports", lambda device, bits: True)
    model = make_model("vit")
    config = MixQConfig(bits=4, calibration_samples=8)
    return quantize_model(model, BitPlan.uniform(model, 4), [random_pixels(model, 8)], config)


@torch.no_grad()
def compiled_logits(model, pixels):
    """Return the logits of a model that was traced as one graph, and what the graph calls."""
    calls = []

    def keep(graph, inputs):
        calls.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch.compiler.reset()
    return torch.compile(model, fullgraph=True, backend=keep)(pixel_values=pixels).logits, calls


@pytest.mark.parametrize(("kernel", "call"), [(IntMMKernel, "_int_mm"), (ReferenceKernel, "linear")])
def test_where_torch_multiplies_the_compiler_sees_products_and_what_follows(kernel, call, monkeypatch):
    monkeypatch.setattr(torch, "_int_mm", strict_int_mm)
    model = packed(kernel, monkeypatch)
    pixels = random_pixels(model, 3, seed=7)
    with torch.no_grad():
        expected = model(pixel_values=pixels).logits
    monkeypatch.undo()
    found, calls = compiled_logits(model, pixels)
    assert torch.equal(found, expected)
    assert any(call in each for each in calls) and any("gelu" in each for each in calls)
    assert not any("integer_" in each for each in calls)


def test_triton_stays_one_operator_for_each_product_and_for_attention(monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed")
    # Triton's interpreter multiplies no bfloat16 (3.7).
    monkeypatch.setattr("optimum_mixq.quant.attention.matmul_dtype", lambda device: torch.float32)
    model = packed(TritonKernel, monkeypatch)
    pixels = random_pixels(model, 1, seed=7)
    with torch.no_grad():
        expected = model(pixel_values=pixels).logits
    found, calls = compiled_logits(model, pixels)
    assert (found - expected).abs().max() < 0.2 * expected.std()
    blocks = model.config.num_hidden_layers
    assert sum("integer_codes" in each for each in calls) == blocks  # fc1
    assert sum("integer_linear" in each for each in calls) == 3 * blocks + 3 + 1  # qkv, proj, fc2; colours; head
    assert sum("mixq.attention" in each for each in calls) == blocks
    assert not any("triton" in each or "exp2" in each for each in calls)
