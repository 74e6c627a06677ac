# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from conftest import make_model, random_pixels

from optimum_mixq.architectures.describe import describe
from optimum_mixq.architectures.replay import record_calls, record_hidden, run_block
from optimum_mixq.config import MixQConfig
from optimum_mixq.stages.reconstruction import loss_names
from optimum_mixq.stages.reconstruction.fisher import FisherLoss
from optimum_mixq.stages.reconstruction.losses import LOSSES, Loss, OutputLoss, loss_of, register_loss
from optimum_mixq.tasks import task_of


def test_the_output_loss_is_the_share_of_the_variance_that_is_missed():
    expected = torch.tensor([[0.0, 2.0], [4.0, 6.0]])  # mean 3, squared distances 9 1 1 9
    found = expected + torch.tensor([[1.0, -1.0], [0.0, 2.0]])
    loss = OutputLoss(make_model("vit"), [], torch.Generator())
    block = describe(make_model("vit")).blocks[0]
    assert float(loss.measure(block, torch.arange(2), found, expected)) == pytest.approx((1 + 1 + 4) / 20)


def test_fisher_weights_are_the_expected_squared_gradients():
    """E[g^2] over all directions that the logits may take, exactly: the diagonal of J^T F J, in float64."""
    model = make_model("vit").double()
    architecture, pixels = describe(model), random_pixels(model, 3).double()
    loss = FisherLoss(model, [pixels[:2], pixels[2:]], torch.Generator().manual_seed(0))
    last = architecture.blocks[-1]
    hidden = record_hidden(model, architecture, pixels)
    calls = record_calls(model, architecture, pixels[:1])
    for block in architecture.blocks[:-1]:
        hidden = run_block(model, block, hidden, calls.blocks[block.name])
    assert set(loss.tokens) == {block.name for block in architecture.blocks}
    kept = []
    hook = model.get_submodule(last.module).register_forward_hook(
        lambda _, __, output: kept.append(output[0] if isinstance(output, tuple) else output)
    )
    pixels.requires_grad_()
    logits = model(pixel_values=pixels).logits
    hook.remove()
    exact = torch.zeros_like(kept[0])
    p = logits.softmax(-1).detach()
    jacobian = torch.stack(
        [torch.autograd.grad(logits[:, k].sum(), kept[0], retain_graph=True)[0] for k in range(logits.shape[1])], 1
    )  # (B, classes, ...)
    for image in range(3):
        fisher = p[image].diag() - p[image][:, None] * p[image][None, :]
        flat = jacobian[image].flatten(1)
        exact[image] = ((fisher @ flat) * flat).sum(0).view_as(exact[image])
    many = FisherLoss.__new__(FisherLoss)
    type(many).probes, before = 200, FisherLoss.probes
    try:
        many.__init__(model, [pixels.detach()], torch.Generator().manual_seed(1))
    finally:
        FisherLoss.probes = before
    tokens = exact.mean(-1, keepdim=True)
    channels = exact.flatten(0, -2).mean(0)
    assert torch.allclose(many.tokens[last.name], tokens / tokens.mean(), rtol=0.3, atol=0.03)
    assert torch.allclose(many.channels[last.name], channels / channels.mean(), rtol=0.3, atol=0.03)


def test_equal_weights_make_the_fisher_loss_the_output_loss():
    model = make_model("vit")
    block, pixels = describe(model).blocks[0], random_pixels(model, 4)
    loss = FisherLoss(model, [pixels], torch.Generator().manual_seed(0))
    loss.tokens[block.name] = torch.ones_like(loss.tokens[block.name])
    loss.channels[block.name] = torch.ones_like(loss.channels[block.name])
    generator = torch.Generator().manual_seed(1)
    found, expected = (torch.randn(2, 17, 24, generator=generator).to(model.device) for _ in range(2))
    rows = torch.tensor([3, 1], device=model.device)
    plain = OutputLoss(model, [], generator).measure(block, rows, found, expected)
    assert torch.isclose(loss.measure(block, rows, found, expected), plain)


def test_the_float_model_is_left_as_it_is():
    model = make_model("vit")
    FisherLoss(model, [random_pixels(model, 2)], torch.Generator().manual_seed(0))
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_loss_of_ones_own_is_an_option():
    @register_loss
    class Absolute(Loss):
        name = "absolute-error"

        def __init__(self, model, images, generator):
            pass

        def measure(self, block, rows, found, expected):
            return (found - expected).abs().mean()

    try:
        assert "absolute-error" in loss_names()
        assert MixQConfig(reconstruction="light", reconstruction_loss="absolute-error").reconstruction == "light"
    finally:
        del LOSSES["absolute-error"]


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"reconstruction_loss.*fisher.*output.*found 'kl'"):
        MixQConfig(reconstruction_loss="kl")
    with pytest.raises(ValueError, match=r"reconstruction .*'light'.*'full'.* found 'medium'"):
        MixQConfig(reconstruction="medium")
    with pytest.raises(ValueError, match="reconstruction_loss"):
        loss_of("kl")


def test_a_task_gives_the_probes_of_its_own_divergence():
    model = make_model("vit")
    model.config.problem_type = "regression"
    assert type(task_of(model)).__name__ == "Regression"
    loss = FisherLoss(model, [random_pixels(model, 2)], torch.Generator().manual_seed(0))
    assert all(weights.isfinite().all() for weights in loss.tokens.values())


def test_the_last_block_of_a_model_without_a_classifier_matters_by_its_class_token():
    model = make_model("vit").base_model
    loss = FisherLoss(model, [random_pixels(model, 2)], torch.Generator().manual_seed(0))
    tokens = loss.tokens[describe(model).blocks[-1].name]
    assert (tokens[:, 0] > 0).all() and (tokens[:, 1:] == 0).all()
