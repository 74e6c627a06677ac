# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""A family and a score from outside go through everything; docs/add-an-architecture.md shows the family."""

import copy
import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from processors import needs_exact_sums
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from optimum_mixq import BitPlan, MixQConfig, MixQQuantizer, describe, measure_relevance, prepare_for_training
from optimum_mixq.architectures import registry
from optimum_mixq.architectures.attention import ROUTE, call_routed_attention
from optimum_mixq.architectures.base import (
    Activation,
    Architecture,
    Block,
    Family,
    NormReaders,
    Rule,
    Unit,
    linear_layers_of,
)
from optimum_mixq.architectures.registry import register_family
from optimum_mixq.architectures.rules import passing
from optimum_mixq.export.conversion import convert
from optimum_mixq.images.batches import Batch
from optimum_mixq.pipeline import pack_trained
from optimum_mixq.quant.attention import AttentionQuantizer
from optimum_mixq.stages.relevance import scores
from optimum_mixq.stages.relevance.propagation import relevance_rules
from optimum_mixq.stages.relevance.scores import register_score


class CosineConfig(PretrainedConfig):
    model_type = "cosine_vit"

    def __init__(self, hidden_size=24, depth=2, heads=2, image_size=16, num_channels=3, **rest):
        self.hidden_size, self.depth, self.heads = hidden_size, depth, heads
        self.image_size, self.num_channels = image_size, num_channels
        super().__init__(**rest)


class CosineAttention(nn.Module):
    """Computes its products itself, of queries and keys of length one, with a bias from the tokens' distance."""

    def __init__(self, config):
        super().__init__()
        self.heads, self.scaling = config.heads, 4.0
        self.to_qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.to_out = nn.Linear(config.hidden_size, config.hidden_size)
        self.distance_bias = nn.Linear(1, config.heads)

    def operands(self, hidden):
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.to_qkv(hidden).chunk(3, -1)
        )
        return F.normalize(query, dim=-1), F.normalize(key, dim=-1), value

    def mask(self, hidden):
        place = torch.arange(hidden.shape[1], dtype=hidden.dtype, device=hidden.device)
        distances = (place[:, None] - place).abs() / len(place)
        return self.distance_bias(distances[..., None]).permute(2, 0, 1)[None]  # (1, heads, T, T)

    def forward(self, hidden):
        query, key, value = self.operands(hidden)
        scores = query @ key.transpose(-1, -2) * self.scaling + self.mask(hidden)
        return self.to_out((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((size,), 0.7))

    def forward(self, hidden):
        return hidden * self.gamma


class CosineLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        size = config.hidden_size
        self.norm_1, self.attend, self.scale_1 = nn.LayerNorm(size), CosineAttention(config), LayerScale(size)
        self.norm_2, self.scale_2 = nn.LayerNorm(size), LayerScale(size)
        self.expand, self.bend, self.contract = nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size)

    def forward(self, hidden):
        hidden = hidden + self.scale_1(self.attend(self.norm_1(hidden)))
        hidden = hidden + self.scale_2(self.contract(self.bend(self.expand(self.norm_2(hidden)))))
        return hidden, hidden.shape[1]


class CosineClassifier(PreTrainedModel):
    config_class = CosineConfig
    main_input_name = "pixel_values"

    def __init__(self, config):
        super().__init__(config)
        self.cut = nn.Conv2d(config.num_channels, config.hidden_size, 4, 4)
        self.trunk = nn.ModuleList(CosineLayer(config) for _ in range(config.depth))
        self.top = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, pixel_values):
        hidden = self.cut(pixel_values).flatten(2).transpose(1, 2)
        for layer in self.trunk:
            hidden, tokens = layer(hidden)
        return ImageClassifierOutput(logits=self.top(hidden[:, :tokens].mean(1)))


class RoutedCosineAttention(CosineAttention):
    """Has its products computed by the function that the module is routed to."""

    def forward(self, hidden):
        query, key, value = self.operands(hidden)
        output = call_routed_attention(self, query, key, value, self.mask(hidden), self.scaling)
        return self.to_out(output.flatten(2))


class CosineFamily(Family):
    model_type = "cosine_vit"
    classifiers = ("CosineClassifier",)

    def describe(self, model: PreTrainedModel) -> Architecture:
        blocks = tuple(self.block(model, number) for number in range(model.config.depth))
        bias = tuple(f"{block.attention}.distance_bias" for block in blocks)
        return Architecture("cosine_vit", "cut", linear_layers_of(model, "top"), blocks, "trunk", left_float=bias)

    def block(self, model: PreTrainedModel, number: int) -> Block:
        name, module = f"blocks.{number}", f"trunk.{number}"
        qkv, attention, fc1 = f"{module}.attend.to_qkv", f"{module}.attend", f"{module}.expand"
        units = (
            Unit(f"{name}.qkv", "qkv", (qkv,)),
            Unit(f"{name}.qk", "qk", (), attention),
            Unit(f"{name}.av", "av", (), attention),
            Unit(f"{name}.proj", "proj", (f"{attention}.to_out",)),
            Unit(f"{name}.fc1", "fc1", (fc1,)),
            Unit(f"{name}.fc2", "fc2", (f"{module}.contract",)),
        )
        return Block(
            name,
            module,
            units,
            norms=(NormReaders(f"{module}.norm_1", (qkv,)), NormReaders(f"{module}.norm_2", (fc1,))),
            attention=attention,
            heads=model.config.heads,
            head_size=model.config.hidden_size // model.config.heads,
            plain_scores=False,  # queries and keys are normalised, and one layer puts out both
            activations=(Activation(f"{module}.bend", fc1),),
            passing=(f"{module}.scale_1", f"{module}.scale_2"),
        )

    def rules(self) -> dict[Callable[..., Any], Rule]:
        return {F.normalize: passing(F.normalize)}

    def adapted_attention(self) -> dict[type[nn.Module], type[nn.Module]]:
        return {CosineAttention: RoutedCosineAttention}


EIGHT = MixQConfig(bits=8, calibration_samples=16)
SMALL = {
    "calibration_samples": 4,
    "sensitivity_samples": 4,
    "candidate_bits": (3, 4, 5),
    "tie_bits": True,
    "compare": False,
}


@pytest.fixture
def cosine(monkeypatch):
    """A small random model of the family, which is registered for as long as the test runs."""
    monkeypatch.setattr(registry, "FAMILIES", [*registry.FAMILIES])
    register_family(CosineFamily)
    torch.manual_seed(0)
    model = CosineClassifier(CosineConfig(num_labels=5)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture
def pixels():
    return torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def logits_of(model, pixels):
    with torch.no_grad():
        return model(pixel_values=pixels).logits


def attention_of(model):
    return [module for module in model.modules() if isinstance(module, CosineAttention)]


@pytest.mark.parametrize("arithmetic", ["column", "folded"])
def test_a_mixed_plan_of_a_new_family_and_score_is_packed_saved_and_loaded(
    cosine, pixels, arithmetic, monkeypatch, tmp_path
):
    monkeypatch.setattr(scores, "SCORES", dict(scores.SCORES))
    asked = []

    @register_score("largest")
    def largest(relevance, gradient):
        asked.append(relevance.shape)
        return relevance.abs().amax(1)

    quantizer = MixQQuantizer.from_pretrained(cosine)
    config = MixQConfig(bits=4, score="largest", arithmetic=arithmetic, **SMALL)
    packed = quantizer.quantize(config, pixels, save_dir=tmp_path / "packed")
    assert asked and quantizer.relevance.score == "largest"
    assert list(quantizer.plan.bits) == [unit.name for unit in describe(cosine).units]
    assert len(set(quantizer.plan.bits.values())) > 1
    assert quantizer.relevance.conservation_error < 1e-4
    expected = logits_of(packed, pixels)
    assert not torch.equal(expected, logits_of(cosine, pixels))
    loaded = CosineClassifier.from_pretrained(tmp_path / "packed")
    assert torch.equal(logits_of(loaded, pixels), expected)


def test_with_eight_bits_its_logits_stay_near_and_its_attention_multiplies_on_grids(cosine, pixels, monkeypatch):
    products = []
    attend = AttentionQuantizer.forward
    monkeypatch.setattr(AttentionQuantizer, "forward", lambda *arguments: products.append(1) or attend(*arguments))
    packed = MixQQuantizer.from_pretrained(cosine).quantize(EIGHT, pixels, plan="uniform")
    products.clear()
    found, expected = logits_of(packed, pixels), logits_of(cosine, pixels)
    assert len(products) == cosine.config.depth
    assert float((found - expected).norm() / expected.norm()) < 0.02
    assert all(isinstance(module, RoutedCosineAttention) for module in attention_of(packed))
    for copied in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert torch.equal(logits_of(copied, pixels), found)
    with pytest.raises(ValueError, match="attention of its own, on its grids"):
        packed.set_attn_implementation("sdpa")


def test_the_model_itself_is_left_as_it_is_and_a_dequantized_one_attends_as_before(cosine, pixels):
    expected = logits_of(cosine, pixels)
    packed = MixQQuantizer.from_pretrained(cosine).quantize(EIGHT, pixels, plan="uniform")
    for model in (cosine, packed.dequantize()):
        assert all(type(module) is CosineAttention and ROUTE not in vars(module) for module in attention_of(model))
    assert torch.equal(logits_of(cosine, pixels), expected)


def test_relevance_goes_through_its_own_rules_and_nothing_is_left_behind(cosine, pixels):
    before = logits_of(cosine, pixels)
    with pytest.raises(RuntimeError, match="stop"), relevance_rules(cosine):
        assert all(type(module) is RoutedCosineAttention for module in attention_of(cosine))
        raise RuntimeError("stop")
    assert all(type(module) is CosineAttention and ROUTE not in vars(module) for module in attention_of(cosine))
    assert measure_relevance(cosine, [Batch(pixels, None, ())]).conservation_error < 1e-4
    assert torch.equal(logits_of(cosine, pixels), before)


def test_without_its_rule_relevance_is_lost(cosine, pixels, monkeypatch):
    monkeypatch.setattr(CosineFamily, "rules", Family.rules)
    with pytest.warns(UserWarning, match="Relevance is not conserved: at the input of 'blocks.1'"):
        measure_relevance(cosine, [Batch(pixels, None, ())])


@pytest.mark.parametrize("attention", ["integer", "logarithmic"])
def test_it_is_converted_for_export(cosine, pixels, attention):
    packed = MixQQuantizer.from_pretrained(cosine).quantize(EIGHT, pixels, plan="uniform")
    found, expected = logits_of(convert(packed, attention), pixels), logits_of(packed, pixels)
    assert float((found - expected).norm() / expected.norm()) < 0.02


@needs_exact_sums
def test_it_runs_in_openvino_where_a_head_reads_the_mean_of_all_tokens(cosine, pixels, tmp_path):
    quantizer = MixQQuantizer.from_pretrained(cosine)
    quantizer.quantize(EIGHT, pixels, plan="uniform")
    result = quantizer.export("openvino", tmp_path / "out", dataset=list(pixels))
    assert result.check.distance < 0.05 and result.check.integer_products == result.check.products


def test_it_is_trained_and_packed(cosine, pixels):
    plan = BitPlan.uniform(cosine, 4)
    trainable = prepare_for_training(cosine, plan, [pixels], MixQConfig(calibration_samples=8))
    trainable(pixel_values=pixels).logits.square().mean().backward()
    steps = [parameter for name, parameter in trainable.named_parameters() if name.endswith("_step")]
    assert steps and all(step.grad is not None for step in steps)
    trainable.eval()
    assert torch.allclose(logits_of(pack_trained(trainable), pixels), logits_of(trainable, pixels), atol=1e-4)


def test_images_of_another_size_are_refused(cosine, pixels):
    with pytest.raises(ValueError, match="Expected images of 16 x 16 pixels, found 20 x 20"):
        MixQQuantizer.from_pretrained(cosine).quantize(MixQConfig(), torch.zeros(2, 3, 20, 20), plan="uniform")


def test_the_family_registered_last_is_asked_first_and_is_gone_afterwards(cosine):
    @register_family
    class Other(CosineFamily):
        def handles(self, model):
            return isinstance(model, CosineClassifier) and model.config.heads == 3

    assert type(registry.family_of(cosine)) is CosineFamily
    cosine.config.heads = 3
    assert type(registry.family_of(cosine)) is Other


def test_outside_of_these_tests_the_family_is_unknown():
    with pytest.raises(ValueError, match=r"Expected a model of type beit, .* yolos, found 'cosine_vit'"):
        describe(CosineClassifier(CosineConfig()))


def test_the_document_shows_this_family():
    page = (Path(__file__).parents[2] / "docs" / "add-an-architecture.md").read_text()
    for part in (CosineFamily, RoutedCosineAttention):
        assert f"\n{inspect.getsource(part)}```" in page
