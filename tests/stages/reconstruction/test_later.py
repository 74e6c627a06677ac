# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from conftest import make_model, random_pixels

from optimum_mixq.architectures.describe import describe
from optimum_mixq.architectures.replay import lead_on, record_calls, record_hidden, run_block
from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import MixQConfig
from optimum_mixq.pipeline import prepare
from optimum_mixq.stages.reconstruction import learn
from optimum_mixq.stages.reconstruction.budgets import BUDGETS, Budget
from optimum_mixq.stages.reconstruction.later import LogitsLoss
from optimum_mixq.tasks import run_model, task_of


def outputs_of_blocks(model, pixels):
    architecture = describe(model)
    calls, hidden = record_calls(model, architecture, pixels[:1]), record_hidden(model, architecture, pixels)
    for block in architecture.blocks:
        hidden = lead_on(model, architecture, calls, block, hidden)
        hidden = run_block(model, block, hidden, calls.blocks[block.name])
        yield block, hidden.detach()


def logits_with(model, block, found, pixels):
    """Return the logits of the model's own forward in which a block puts out what is given."""

    def hook(_, __, output):
        return (found, *output[1:]) if isinstance(output, tuple) else found

    handle = model.get_submodule(block.module).register_forward_hook(hook)
    try:
        return run_model(model, pixels)
    finally:
        handle.remove()


@pytest.mark.parametrize("name", ["vit", "deit", "swin", "segformer", "dinov2"])
def test_a_blocks_output_is_judged_by_its_error_and_by_the_logits_that_it_leads_to(name):
    model = make_model(name).double()
    pixels = random_pixels(model, 3).double()
    loss, rows = LogitsLoss(model, [pixels[:2], pixels[2:]], torch.Generator()), torch.tensor([2, 0])
    reference = run_model(model, pixels)[rows].detach()
    for number, (block, expected) in enumerate(outputs_of_blocks(model, pixels)):
        expected, noise = expected[rows], torch.Generator().manual_seed(number)
        found = expected + 0.1 * torch.randn(expected.shape, generator=noise, dtype=torch.float64)
        found.requires_grad_()
        logits = logits_with(model, block, found, pixels[rows])
        share = (found - expected).square().mean() / expected.var(correction=0)
        wanted = share + 0.1 * task_of(model).divergence(logits, reference, 4.0).mean()
        measured = loss.measure(block, rows, found, expected)
        assert torch.isclose(measured, wanted, rtol=1e-9)
        (own,), (gradient,) = (torch.autograd.grad(value, found) for value in (measured, wanted))
        assert torch.allclose(own, gradient, rtol=1e-7, atol=1e-12)
        assert float(loss.measure(block, rows, expected, expected)) == pytest.approx(0, abs=1e-12)


def test_the_float_model_learns_nothing_from_it(monkeypatch):
    model = make_model("vit")
    monkeypatch.setitem(BUDGETS, "full", Budget(iterations=2, batch_size=4))
    monkeypatch.setattr(learn.BlockErrors, "helped", property(lambda errors: True))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = MixQConfig(bits=3, reconstruction="full", reconstruction_loss="logits")
    prepare(model, BitPlan.uniform(model, 3), [random_pixels(model, 16)], config)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_model_whose_head_reads_several_blocks_is_refused_by_their_names():
    model, config = make_model("dpt"), MixQConfig(reconstruction="full", reconstruction_loss="logits")
    with pytest.raises(ValueError, match=r"whose last block alone leads .* also reads .* Set reconstruction_loss="):
        prepare(model, BitPlan.uniform(model, 3), [random_pixels(model, 16)], config)
    assert LogitsLoss.objection(make_model("vit")) is None
