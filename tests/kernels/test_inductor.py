# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What torch.compile writes for a GPU between products: Inductor's Triton code, which needs no GPU to be written."""

import re

import pytest
import torch
from conftest import make_model, random_pixels
from torch import nn
from torch._inductor import config, utils

from optimum_mixq import BitPlan, MixQConfig
from optimum_mixq.kernels import TritonAttention, TritonKernel, registry
from optimum_mixq.pipeline import quantize_model
from optimum_mixq.quant.norms import RowLayerNorm


pytest.importorskip("triton", reason="Triton is not installed")

WHAT_KERNELS_DO = "add(?!c)|layer_norm|clamp|gelu|softmax|exp2"  # not addcmul


@pytest.fixture
def packed(monkeypatch):
    """Return a packed ViT that multiplies as on a GPU; nothing of it is run."""
    model = make_model("vit").to("cpu")
    config = MixQConfig(bits=4, calibration_samples=4)
    model = quantize_model(model, BitPlan.uniform(model, 4), [random_pixels(model, 4).cpu()], config)
    monkeypatch.setattr(registry, "KERNELS", [TritonKernel])
    monkeypatch.setattr(TritonKernel, "supports", classmethod(lambda own, device, bits: True))
    monkeypatch.setattr(TritonAttention, "supports", classmethod(lambda own, device: True))
    monkeypatch.setattr(RowLayerNorm, "forward", nn.LayerNorm.forward)  # as it is where there is a GPU
    return model.to("cpu")  # chooses kernels anew


def written_calls(model, pixels, monkeypatch):
    """Return what Inductor's code calls in turn: an operator, or what a kernel that it wrote itself does."""
    # Triton would be asked for the device.
    monkeypatch.setattr("torch.utils._triton.triton_hash_with_backend", lambda: "none")
    torch.compiler.reset()
    # A cache would give the code of a run before, which was not compiled.
    with torch.no_grad(), config.patch(cpu_backend="triton", force_disable_caches=True):
        code = "".join(utils.get_code(torch.compile(model, fullgraph=True), pixel_values=pixels))
    torch.compiler.reset()
    calls = re.findall(r"^        .*?(?:triton_\w+?_fused_(\w+)\.run|torch\.ops\.mixq\.(\w+)\.default)\(", code, re.M)
    return [operator or set(re.findall(WHAT_KERNELS_DO, name)) for name, operator in calls]


@pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled")
def test_residual_sum_norm_and_rounding_are_one_kernel_between_products(packed, monkeypatch):
    calls = written_calls(packed, random_pixels(packed, 2).cpu(), monkeypatch)
    fused = {"add", "layer_norm", "clamp"}
    block = [
        fused, "integer_linear", "attention", {"clamp"}, "integer_linear",
        fused, "integer_codes", "integer_linear",
    ]  # fmt: skip
    first, blocks = calls.index(fused), packed.config.num_hidden_layers
    assert calls[first : first + len(block) * blocks] == block * blocks
