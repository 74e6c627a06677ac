# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Softmax grids other than the default's, from calibration over saving and loading to training."""

import itertools
import json

import pytest
import torch
from conftest import make_model, random_pixels
from transformers import AutoModelForImageClassification

from optimum_mixq import MixQConfig, MixQQuantizer
from optimum_mixq.artifacts import BitPlan
from optimum_mixq.pipeline import pack_trained, prepare_for_training, quantize_model
from optimum_mixq.quant.attention import AttentionQuantizer
from optimum_mixq.quant.grids import UniformGrid
from optimum_mixq.quant.learned import LearnedAttention
from optimum_mixq.quant.softmax_grids import (
    Uniform,
    base,
    register_softmax_grid,
    softmax_grid_names,
    softmax_grid_of,
)


NAMES = softmax_grid_names()


def attentions(model, kind=AttentionQuantizer):
    return [module for module in model.modules() if isinstance(module, kind)]


@torch.no_grad()
def logits(model):
    return model.eval()(pixel_values=random_pixels(model, 3, seed=7)).logits


def save(model, folder, name):
    packed = quantize_model(
        model, BitPlan.uniform(model, 3), [random_pixels(model, 8)], MixQConfig(bits=3, softmax=name)
    )
    packed.save_pretrained(folder)
    return packed


@pytest.mark.parametrize("model", ["vit", "swin"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_loads_to_equal_logits(name, model, tmp_path):
    packed = save(make_model(model), tmp_path, name)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert loaded.config.quantization_config.softmax == name
    assert {each.softmax_grid.name for each in attentions(loaded)} == {name}
    settings = [each.softmax_grid.setting for each in attentions(loaded)]
    assert settings == [each.softmax_grid.setting for each in attentions(packed)]
    assert torch.equal(logits(loaded), logits(packed))


@pytest.mark.parametrize("name", NAMES)
def test_attention_is_traced_in_one_graph_with_every_grid(name):
    attention = AttentionQuantizer(2, 4, 4, 3, softmax=name).eval()
    for operand in ("query", "key", "value"):
        attention.set_grid(operand, UniformGrid(torch.full((2, 4), 0.25), torch.full((2, 4), 4.0), 4))
    tensors = [torch.randn(2, 2, 5, 4, generator=torch.Generator().manual_seed(number)) for number in range(3)]
    torch.compiler.reset()
    compiled = torch.compile(attention, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert torch.equal(compiled(*tensors, None, 0.5), attention(*tensors, None, 0.5))


def test_grids_give_different_models():
    vit = make_model("vit")
    found = {
        name: logits(quantize_model(vit, BitPlan.uniform(vit, 3), [random_pixels(vit, 8)], MixQConfig(softmax=name)))
        for name in NAMES
    }
    assert all(not torch.equal(found[first], found[second]) for first, second in itertools.combinations(NAMES, 2))


def test_files_do_not_load_with_another_grid_than_they_were_saved_with(tmp_path):
    save(make_model("vit"), tmp_path, "log2")
    content = json.loads((tmp_path / "config.json").read_text())
    content["quantization_config"]["softmax"] = "uniform"
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match="The plan, arithmetic or softmax grid in config.json is not what the tensors"
    ):
        AutoModelForImageClassification.from_pretrained(tmp_path)


def test_a_setting_that_the_grid_does_not_have_is_refused(tmp_path):
    packed = save(make_model("vit"), tmp_path, "adaptive-log")
    attentions(packed)[1].mixq_softmax_setting.fill_(1000)
    packed.save_pretrained(tmp_path)
    expected = r"layers.1.attention.mixq_attention.mixq_softmax_setting is 1000, which the softmax grid 'adaptive-log'"
    with pytest.raises(ValueError, match=expected):
        AutoModelForImageClassification.from_pretrained(tmp_path)


class Halves(Uniform):
    """Zero, a half and one."""

    name = "halves"

    @property
    def _largest(self):
        return 2


def test_a_grid_from_outside_is_saved_and_loads_where_it_is_registered(monkeypatch, tmp_path):
    with monkeypatch.context() as registered:
        registered.setattr(base, "SOFTMAX_GRIDS", {**base.SOFTMAX_GRIDS})
        register_softmax_grid(Halves)
        packed = save(make_model("vit"), tmp_path, "halves")
        loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
        assert all(type(each.softmax_grid) is Halves for each in attentions(loaded))
        assert torch.equal(logits(loaded), logits(packed))
    with pytest.raises(ValueError, match="Expected softmax to be 'adaptive-log', .*, found 'halves'"):
        AutoModelForImageClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize("sensitivity", ["gradient", "measured"])
def test_bits_are_chosen_with_the_grid_that_is_asked_for(sensitivity):
    vit = make_model("vit")
    config = MixQConfig(
        bits=4, softmax="adaptive-log", sensitivity=sensitivity, calibration_samples=4, sensitivity_samples=4,
        candidate_bits=(3, 5),
    )  # fmt: skip
    packed = MixQQuantizer.from_pretrained(vit).quantize(config, random_pixels(vit, 8))
    for each in attentions(packed):
        kind = softmax_grid_of("adaptive-log")
        assert type(each.softmax_grid) is kind and each.softmax_grid.setting in kind.settings(each.av_bits)


@pytest.mark.parametrize("name", ["adaptive-log", "twin-uniform"])
def test_a_model_in_training_keeps_its_grid(name, tmp_path):
    vit = make_model("vit")
    config = MixQConfig(bits=3, softmax=name)
    model = prepare_for_training(vit, BitPlan.uniform(vit, 3), [random_pixels(vit, 8)], config)
    chosen = softmax_grid_of(name).settings(3)[1:]  # each attention another one
    for setting, each in zip(chosen, attentions(model, LearnedAttention), strict=False):
        each.set_softmax_grid(each.softmax_kind(3, setting))
    model.train()(pixel_values=random_pixels(vit, 4), labels=torch.zeros(4, dtype=torch.long)).loss.backward()
    learned = attentions(model, LearnedAttention)
    assert all(parameter.grad.isfinite().all() for each in learned for parameter in each.parameters())
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    packed = pack_trained(loaded)
    settings = [each.softmax_grid.setting for each in attentions(packed)]
    assert settings == list(chosen[: len(settings)])
    assert torch.equal(logits(packed), logits(pack_trained(model)))
