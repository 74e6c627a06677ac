# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
from dataclasses import replace

import pytest
import torch
from conftest import make_model, random_pixels

from optimum_mixq.architectures.block_run import BlockRun
from optimum_mixq.architectures.describe import Residual, describe
from optimum_mixq.architectures.replay import inputs_of, record_calls, record_hidden, run_block
from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import MixQConfig
from optimum_mixq.stages.calibration import blocks
from optimum_mixq.stages.calibration.blocks import calibrate
from optimum_mixq.stages.calibration.residuals import loosened, mend_residuals


@torch.no_grad()
def states_after_blocks(model, pixels):
    """Return the hidden states after each block, by its name."""
    architecture = describe(model)
    calls, hidden, found = (
        record_calls(model, architecture, pixels[:1]),
        record_hidden(model, architecture, pixels),
        {},
    )
    for block in architecture.blocks:
        hidden = found[block.name] = run_block(model, block, hidden, calls.blocks[block.name])
    return found


@torch.no_grad()
@pytest.mark.parametrize("name", ["vit", "deit", "swin"])
def test_a_residuals_layer_puts_out_what_is_added_to_what_its_norm_reads(name):
    model = make_model(name)
    architecture, pixels = describe(model), random_pixels(model, 2)
    calls, hidden = record_calls(model, architecture, pixels[:1]), record_hidden(model, architecture, pixels)
    for block in architecture.blocks:
        call = calls.blocks[block.name]
        for residual in block.residuals:
            layer = model.get_submodule(residual.layer)
            (given,) = inputs_of(model, block, residual.layer, [hidden], call)
            (stream,) = inputs_of(model, block, residual.norm, [hidden], call)
            norm_after = next((r.norm for r in block.residuals if r.norm != residual.norm), None)
            total = stream[0] + layer(given[0])
            if residual is block.residuals[-1]:
                assert torch.allclose(total, run_block(model, block, hidden, call), atol=1e-5)
            else:
                (read,) = inputs_of(model, block, norm_after, [hidden], call)
                assert torch.allclose(total, read[0], atol=1e-5)
        hidden = run_block(model, block, hidden, call)
    assert all(block.residuals for block in architecture.blocks if block.attention)


def test_targets_are_what_is_missing_to_the_float_models_sum(vit, monkeypatch):
    """r + y - r', with r' from a forward of the blocks that are quantized by then."""
    plan, pixels = BitPlan.uniform(vit, 3), random_pixels(vit, 8)
    seen, plain = {}, {}

    def keep(run, unit, outputs, wanted, replay, into):
        into[unit.name] = outputs[0]
        return original(run, unit, outputs, wanted, replay)

    original = blocks._calibrate_layers
    for into, reconstruction in ((plain, None), (seen, "light")):
        monkeypatch.setattr(blocks, "_calibrate_layers", lambda *given, into=into: keep(*given, into))
        quantized = calibrate(vit, plan, [pixels], MixQConfig(bits=3, reconstruction=reconstruction))
    assert seen.keys() == plain.keys()
    architecture = describe(vit)
    float_states, states = states_after_blocks(vit, pixels), states_after_blocks(quantized, pixels)
    first, second = architecture.blocks[:2]
    missing = float_states[first.name] - states[first.name]
    assert torch.allclose(seen[f"{second.name}.proj"][0], plain[f"{second.name}.proj"][0] + missing, atol=1e-5)
    assert torch.equal(seen[f"{second.name}.fc1"][0], plain[f"{second.name}.fc1"][0])


@pytest.mark.parametrize("arithmetic", ["column", "folded"])
@pytest.mark.parametrize("name", ["vit", "deit"])
def test_hidden_states_come_nearer_to_the_float_models(name, arithmetic):
    model = make_model(name)
    plan, pixels, unseen = BitPlan.uniform(model, 3), random_pixels(model, 64), random_pixels(model, 32, seed=7)
    wanted, errors = states_after_blocks(model, unseen), []
    for reconstruction in (None, "light"):
        config = MixQConfig(bits=3, arithmetic=arithmetic, reconstruction=reconstruction)
        found = states_after_blocks(calibrate(model, plan, [pixels], config), unseen)
        last = describe(model).blocks[-1].name
        errors.append(float((found[last] - wanted[last]).square().mean()))
    assert errors[1] < errors[0]


def test_a_residual_of_another_shape_is_refused_by_name(vit):
    architecture, pixels = describe(vit), random_pixels(vit, 2)
    block = architecture.blocks[0]
    wrong = Residual(block.unit("fc1").modules[0], block.norms[1].norm)
    call = record_calls(vit, architecture, pixels[:1]).blocks[block.name]
    hidden = record_hidden(vit, architecture, pixels)
    run = BlockRun(vit, replace(block, residuals=(wrong,)), call, [hidden])
    with pytest.raises(ValueError, match=r"Expected the layer of a residual to put out what .*layernorm_after reads"):
        mend_residuals(run, block.unit("fc1"), [[torch.zeros(2, 17, 48)]], {wrong.norm: [hidden]})


def test_weights_that_mend_are_held_back_less_with_more_images(vit, monkeypatch):
    options = MixQConfig(ridge=0.8).calibration
    assert [loosened(options, images).ridge for images in (32, 128, 8)] == [0.8, 0.4, 1.6]
    plan, pixels, ridges = BitPlan.uniform(vit, 3), random_pixels(vit, 8), []
    own = blocks._calibrate_block

    def note(run, floats, wanted):
        ridges.append((wanted.options_of(run.block).ridge, wanted.options.ridge))
        return own(run, floats, wanted)

    monkeypatch.setattr(blocks, "_calibrate_block", note)
    calibrate(vit, plan, [pixels], MixQConfig(ridge=0.8))
    calibrate(vit, plan, [pixels], MixQConfig(ridge=0.8, reconstruction=None))
    assert set(ridges) == {(1.6, 0.8), (0.8, 0.8)}


@pytest.mark.parametrize("name", ["dinov2", "beit", "swinv2"])
def test_blocks_that_mend_nothing_are_calibrated_as_ever(name):
    model = make_model(name)
    assert not any(block.residuals for block in describe(model).blocks)
    plan, pixels = BitPlan.uniform(model, 3), random_pixels(model, 4)
    plain, mended = (
        calibrate(model, plan, [pixels], MixQConfig(bits=3, reconstruction=reconstruction)).state_dict()
        for reconstruction in (None, "light")
    )
    assert all(torch.equal(tensor, mended[key]) for key, tensor in plain.items())
