# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Programs from torch.export hold what they multiply with, wherever and beside whatever they run."""

import subprocess
import sys

import pytest
import torch
from conftest import make_model, random_pixels

from optimum_mixq import BitPlan, MixQConfig
from optimum_mixq.kernels import operators, prepare_kernel
from optimum_mixq.pipeline import quantize_model


pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:torch")


def packed(name, bits=4):
    model = make_model(name)
    return quantize_model(model, BitPlan.uniform(model, bits), [random_pixels(model, 8)], MixQConfig(bits=bits))


@torch.no_grad()
def logits(model, pixels):
    return model(pixel_values=pixels).logits


def export(model, pixels, **options):
    return torch.export.export(model, (), {"pixel_values": pixels}, **options)


ELSEWHERE = """
import sys, torch, optimum_mixq
from pathlib import Path
from transformers import AutoModelForImageClassification, SwinForImageClassification, ViTForImageClassification
others = []
for company in ("alone", "beside"):
    for folder in sorted(Path(sys.argv[1]).iterdir()):
        pixels, expected = torch.load(folder / "expected.pt")
        if company == "beside":
            others += [AutoModelForImageClassification.from_pretrained(folder / "other") for _ in range(2)]
            others[-1](pixel_values=pixels)
        module = torch.export.load(folder / "program.pt2").module()
        with torch.no_grad():
            print(company, all(torch.equal(module(pixel_values=pixels).logits, expected) for _ in range(2)))
"""


def test_a_program_gives_the_same_logits_in_another_process_also_beside_other_models(tmp_path):
    for name in ("vit", "swin"):
        model = packed(name)
        pixels = random_pixels(model, 3, seed=7)
        packed(name, 3).save_pretrained(tmp_path / name / "other")
        torch.export.save(export(model, pixels), tmp_path / name / "program.pt2")
        torch.save((pixels, logits(model, pixels)), tmp_path / name / "expected.pt")
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["alone True", "alone True", "beside True", "beside True"]


@pytest.mark.parametrize("strict", [False, True])
def test_a_program_outlives_its_model(strict):
    model = packed("vit")
    pixels = random_pixels(model, 3, seed=7)
    expected = logits(model, pixels)
    program = export(model, pixels, strict=strict).module()
    assert torch.equal(logits(program, pixels), expected)
    model.to("cpu")
    assert torch.equal(logits(program, pixels), expected)
    del model
    assert torch.equal(logits(program, pixels), expected)


def test_a_program_takes_other_batch_sizes():
    model = packed("vit")
    batch = torch.export.Dim("batch", min=1, max=64)
    program = export(model, random_pixels(model, 3), dynamic_shapes={"pixel_values": {0: batch}}).module()
    for count in (1, 2, 17):
        pixels = random_pixels(model, count, seed=count)
        assert torch.equal(logits(program, pixels), logits(model, pixels))


def test_a_program_prepares_each_kernel_once(monkeypatch):
    model = packed("vit")
    pixels = random_pixels(model, 3)
    program = export(model, pixels).module()
    products = []
    monkeypatch.setattr(
        operators, "prepare_kernel", lambda product: products.append(product) or prepare_kernel(product)
    )
    logits(program, pixels)
    first = len(products)
    logits(program, pixels)
    assert len(products) == first == sum("integer_product" in str(node.target) for node in program.graph.nodes) > 0


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_tracing_says_what_to_use_instead():
    model = packed("vit")
    with pytest.raises(ValueError, match=r"torch.jit.trace cannot hold integer kernels: use torch.export.export"):
        torch.jit.trace(model, example_kwarg_inputs={"pixel_values": random_pixels(model)}, strict=False)
