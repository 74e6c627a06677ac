# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
from dataclasses import replace

import pytest
import torch
from conftest import make_model, random_pixels

from optimum_mixq.architectures.describe import describe
from optimum_mixq.architectures.replay import (
    captured_inputs,
    captured_outputs,
    finish,
    inputs_of,
    lead_on,
    record_calls,
    record_hidden,
    run_block,
)
from optimum_mixq.tasks import run_model, task_of


@torch.no_grad()
def test_blocks_run_one_by_one_give_what_the_whole_model_gives(model):
    architecture, pixels = describe(model), random_pixels(model)
    calls = record_calls(model, architecture, pixels[:1])
    hidden = record_hidden(model, architecture, pixels)
    last = architecture.blocks[-1]
    with captured_outputs(model, [last.module]) as outputs:
        model(pixel_values=pixels)
    for block in architecture.blocks:
        hidden = lead_on(model, architecture, calls, block, hidden)
        hidden = run_block(model, block, hidden, calls.blocks[block.name])
    expected = outputs[last.module][0]
    assert torch.equal(hidden, expected[0] if isinstance(expected, tuple) else expected)


@torch.no_grad()
def test_what_comes_after_the_last_block_is_reached_without_running_one(model):
    architecture, pixels = describe(model), random_pixels(model)
    calls = record_calls(model, architecture, pixels[:1])
    last = architecture.blocks[-1].module
    tapped = {block.name: block.module for block in architecture.blocks if block.name in architecture.taps}
    with captured_outputs(model, list(dict.fromkeys((*tapped.values(), last)))) as outputs:
        expected = run_model(model, pixels)
    ran = []
    hooks = [
        model.get_submodule(block.units[0].modules[0]).register_forward_pre_hook(lambda *_: ran.append("a block"))
        for block in architecture.blocks[:-1]
    ]
    states = {name: found[0][0] if isinstance(found[0], tuple) else found[0] for name, found in outputs.items()}
    hidden, taps = states[last], {name: states[module] for name, module in tapped.items()}
    end = finish(model, architecture, calls, torch.zeros_like(pixels[:1]), hidden, taps)
    found = task_of(model).logits(model, end)
    for hook in hooks:
        hook.remove()
    assert torch.equal(found, expected) and ran == []
    assert torch.equal(run_model(model, pixels), expected)  # the chain is whole again


@torch.no_grad()
def test_the_inputs_of_a_module_are_what_it_is_given_in_the_whole_model(model):
    architecture, pixels = describe(model), random_pixels(model)
    block = architecture.blocks[0]
    module = block.units[-1].modules[0]
    call = record_calls(model, architecture, pixels[:1]).blocks[block.name]
    found = inputs_of(model, block, module, [record_hidden(model, architecture, pixels)], call)
    with captured_inputs(model, [module]) as kept:
        model(pixel_values=pixels)
    assert torch.equal(found[0][0], kept[module][0])


def test_hooks_are_gone_after_an_error(vit):
    architecture = describe(vit)
    with pytest.raises(ValueError, match="doesn't match model"):
        record_calls(vit, architecture, torch.zeros(1, 3, 20, 20))
    with pytest.raises(RuntimeError, match="stop"), captured_inputs(vit, [architecture.stem]):
        raise RuntimeError("stop")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in vit.modules())


def test_what_is_read_of_several_blocks_has_no_heads():
    architecture = describe(make_model("segmenting_segformer"))
    assert architecture.taps == ("stages.0.blocks.0", "stages.1.blocks.1") and not architecture.is_plain
    with pytest.raises(ValueError, match=r"Expected no heads where more than the last block is read \(stages"):
        replace(architecture, heads=("decode_head.classifier",))
