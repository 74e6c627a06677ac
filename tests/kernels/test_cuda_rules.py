# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Every layer shape of the published models goes through what CUDA's `_int_mm` takes."""

from unittest.mock import patch

import pytest
import torch
from conftest import make_model, random_pixels
from cuda_stand_in import strict_int_mm
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from optimum_mixq import BitPlan, MixQConfig
from optimum_mixq.architectures.describe import describe
from optimum_mixq.kernels import IntegerProduct, IntMMKernel, ReferenceKernel, registry
from optimum_mixq.pipeline import quantize_model
from optimum_mixq.quant import attention


PLAIN_SIZES = {"Ti": (192, 3), "S": (384, 6), "B": (768, 12), "L": (1024, 16)}
SWIN_SIZES = {"Ti": (96, 3), "S": (96, 3), "B": (128, 4), "L": (192, 6)}
LABELS, PATCHES = (2, 10, 100, 1000), (14, 16, 32)


@pytest.fixture
def strict(monkeypatch):
    monkeypatch.setattr(torch, "_int_mm", strict_int_mm)


def published_models():
    """Yield each model with one block per stage, without numbers."""
    for labels in LABELS:
        for width, heads in PLAIN_SIZES.values():
            sizes = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": 4 * width}
            for size in PATCHES:
                options = {**sizes, "patch_size": size, "num_hidden_layers": 1, "num_labels": labels}
                yield ViTForImageClassification(ViTConfig(**options))
                yield DeiTForImageClassificationWithTeacher(DeiTConfig(**options))
        for width, heads in SWIN_SIZES.values():
            stages = {"depths": [1, 1, 1, 1], "num_heads": [heads, 2 * heads, 4 * heads, 8 * heads]}
            yield SwinForImageClassification(SwinConfig(embed_dim=width, **stages, num_labels=labels))


def published_shapes():
    """Return the (outputs, inputs) of all products: layers, joint query, key and value, and each patch channel."""
    shapes = set()
    with torch.device("meta"):
        for model in published_models():
            architecture = describe(model)
            for unit in architecture.units:
                layers = [model.get_submodule(name) for name in unit.modules]
                if layers:
                    shapes |= {(layer.out_features, layer.in_features) for layer in layers}
                    shapes.add((sum(layer.out_features for layer in layers), layers[0].in_features))
            for name in architecture.heads:
                shapes.add((model.get_submodule(name).out_features, model.get_submodule(name).in_features))
            stem = model.get_submodule(architecture.stem)
            shapes.add((stem.out_channels, stem.kernel_size[0] * stem.kernel_size[1]))
    return sorted(shapes)


@torch.no_grad()
def test_every_layer_shape_of_the_published_models_goes_through(strict):
    shapes = published_shapes()
    assert {(10, 192), (2, 1024), (384, 196), (3072, 768), (96, 16), (3072, 1024)} <= set(shapes) and len(shapes) > 60
    for outputs, inputs in shapes:
        operand = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
        product = IntegerProduct(operand, torch.full((outputs,), 1e-4), torch.ones(outputs))
        kernel, reference = IntMMKernel(product), ReferenceKernel(product)
        for rows in (1, 17) if inputs * outputs < 2**20 else (1,):
            codes = torch.randint(0, 128, (rows, inputs), dtype=torch.uint8)
            assert torch.equal(kernel(codes), reference(codes)), (outputs, inputs, rows)


@pytest.mark.parametrize("rows", [0, 1, 16, 17, 25])
@pytest.mark.parametrize("sizes", [(10, 196), (8, 8), (1, 1), (17, 9)])
def test_every_number_of_rows_goes_through(strict, rows, sizes):
    operand = torch.randint(-127, 128, sizes, dtype=torch.int8)
    product = IntegerProduct(operand, torch.rand(sizes[0]), torch.randn(sizes[0]))
    codes = torch.randint(0, 256, (rows, sizes[1]), dtype=torch.uint8)
    assert torch.equal(IntMMKernel(product)(codes), ReferenceKernel(product)(codes))


@pytest.mark.parametrize("name", ["vit", "padded_swin"])
def test_a_model_of_odd_sizes_gives_the_same_logits_under_cudas_rules(name, monkeypatch):
    model = make_model(name)
    plan, pixels = BitPlan.uniform(model, 4), random_pixels(model, 1, seed=7)
    logits = []
    for kernel in (IntMMKernel, ReferenceKernel):
        monkeypatch.setattr(registry, "KERNELS", [kernel])
        monkeypatch.setattr(kernel, "supports", lambda device, bits: True)
        packed = quantize_model(model, plan, [random_pixels(model, 8)], MixQConfig(bits=4))
        with torch.no_grad(), patch.object(torch, "_int_mm", strict_int_mm):
            logits.append(packed(pixel_values=pixels).logits)
    assert torch.equal(*logits)


def test_the_stand_in_raises_what_cuda_raises():
    rows, matrix = torch.zeros(17, 8, dtype=torch.int8), torch.zeros(8, 16, dtype=torch.int8)
    assert strict_int_mm(rows, matrix).shape == (17, 16)
    for left, right, text in (
        (rows[:16], matrix, r"self.size\(0\) needs to be greater than 16, but got 16"),
        (rows[:, :7], matrix[:7], r"self.size\(1\) needs to be .* a multiple of 8, but got 7"),
        (rows, matrix[:, :10], r"mat2.size\(1\) needs to be .* a multiple of 8, but got 10"),
        (torch.zeros(17, 16, dtype=torch.int8), matrix, r"needs to match mat2.size\(0\) but got 16 and 8"),
        (rows.to(torch.uint8), matrix, "expected scalar type Char"),
        (rows[0], matrix, "Expected self to be of dimension 2"),
        (torch.zeros(8, 17, dtype=torch.int8).t(), matrix, "contiguous"),
    ):
        with pytest.raises(RuntimeError, match=text):
            strict_int_mm(left, right)


@pytest.mark.parametrize(("supported", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_attention_multiplies_bfloat16_on_cuda_only_where_that_is_supported(supported, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    attention._cuda_multiplies_bfloat16.cache_clear()
    assert attention.matmul_dtype(torch.device("cuda")) is expected
    attention._cuda_multiplies_bfloat16.cache_clear()
