# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Nothing mixes devices, and a packed model's forward brings nothing to the host."""

import math

import pytest
import torch
from conftest import BUILDERS, make_model, random_pixels
from cuda_stand_in import DEVICE, other_device

from optimum_mixq import BitPlan, MixQConfig
from optimum_mixq.images.batches import Batch
from optimum_mixq.kernels import IntegerProduct, IntMMKernel
from optimum_mixq.pipeline import choose_plan, prepare_for_training, quantize_model
from optimum_mixq.quant import attention
from optimum_mixq.stages.relevance.measure import measure_relevance
from optimum_mixq.tasks import run_model


CONFIG = MixQConfig(bits=4, calibration_samples=8, sensitivity_samples=4, compare=False)


def eager(name):
    """transformers' fused attention asks for the device's own."""
    model = make_model(name)
    model.set_attn_implementation("eager")
    return model


@torch.no_grad()
def test_the_stand_in_refuses_what_cuda_refuses_and_sees_what_leaves():
    with other_device() as to_host:
        here, there = torch.ones(3, 4), torch.ones(3, 4, device=DEVICE)
        with pytest.raises(RuntimeError, match=r"add: expected all tensors to be on the same device"):
            there + here
        assert (there + torch.tensor(1.0) + 1).device == DEVICE and to_host == []
        assert there.sum().item() == 12 and to_host == ["_local_scalar_dense"]
        assert torch.equal(there.cpu(), here) and to_host[1:] == ["_to_copy"]
        to_host.from_host.clear()
        there.copy_(here)
        here.copy_(there)
        assert to_host[2:] == ["copy_"] == to_host.from_host
        there[there > 0]
        assert to_host[3:] == ["index"]
        with pytest.raises(RuntimeError, match=r"self.size\(0\) needs to be greater than 16, but got 3"):
            torch._int_mm(there.to(torch.int8), there.to(torch.int8).t())


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_a_packed_model_runs_on_its_device_alone(name):
    model = eager(name)
    packed = quantize_model(model, BitPlan.uniform(model, 4), [random_pixels(model, 8)], CONFIG)
    pixels = random_pixels(model, 3, seed=7)
    with torch.no_grad(), other_device() as to_host:
        packed.to(DEVICE)
        moved = pixels.to(DEVICE)
        to_host.clear()
        from_host = to_host.from_host
        from_host.clear()
        logits = run_model(packed, moved)
        # What waits for the device, or depends on its numbers, no CUDA graph can record.
        assert to_host == [] and from_host == [] and logits.device == DEVICE
        packed.to("cpu")
        here = logits.cpu()
    with torch.no_grad():
        expected = run_model(packed, pixels)
    assert (here - expected).abs().max() < 0.2 * expected.std()


def test_calibration_and_relevance_mix_no_devices(monkeypatch):
    monkeypatch.setattr(attention, "CPU_MULTIPLIES_BFLOAT16", False)  # as on the other device
    pixels = random_pixels(make_model("vit"), 8)
    plan = BitPlan.uniform(make_model("vit"), 4)
    with other_device() as to_host:
        model = eager("vit").to(DEVICE)
        to_host.clear()
        packed = quantize_model(model, plan, [pixels], CONFIG)
        # A few times for each of the 24 layers and matmuls, and not for each candidate of a search.
        assert len(to_host) < 12 * 24
        packed = packed.to("cpu")
        relevance = measure_relevance(model, [Batch(pixels[:2], None, ())])
    here = eager("vit")
    for name, tensor in quantize_model(here, plan, [pixels], CONFIG).state_dict().items():
        assert torch.equal(packed.state_dict()[name], tensor), name
    expected = measure_relevance(here, [Batch(pixels[:2], None, ())]).scores
    assert relevance.scores == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_the_choice_of_bits_mixes_no_devices():
    config = MixQConfig(bits=4, calibration_samples=8, sensitivity_samples=4, candidate_bits=(3, 4))
    pixels = random_pixels(make_model("vit"), 8)
    with other_device():
        model = eager("vit").to(DEVICE)
        plan, _, sensitivity = choose_plan(model, [pixels], [Batch(pixels[:4], None, ())], config)
    assert set(plan.bits) == set(sensitivity.table)
    assert all(math.isfinite(damage) for row in sensitivity.table.values() for damage in row.values())


def test_training_mixes_no_devices():
    with other_device():
        model = eager("vit").to(DEVICE)
        learner = prepare_for_training(model, BitPlan.uniform(model, 3), [random_pixels(model, 8)], CONFIG)
        run_model(learner.train(), random_pixels(model, 4).to(DEVICE)).square().sum().backward()
        gradients = [parameter.grad for parameter in learner.parameters() if parameter.grad is not None]
        assert gradients and all(gradient.device == DEVICE for gradient in gradients)


def test_a_kernel_that_mixed_devices_would_be_found():
    with other_device():
        operand = torch.ones(8, 8, dtype=torch.int8, device=DEVICE)
        kernel = IntMMKernel(IntegerProduct(operand, torch.ones(8), torch.ones(8)))
        with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
            kernel(torch.ones(20, 8, dtype=torch.uint8, device=DEVICE))
