# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
from transformers import SiglipConfig, SiglipForImageClassification

from optimum_mixq.architectures import registry
from optimum_mixq.architectures.attention import release_attention, route_attention, routed_attention
from optimum_mixq.architectures.base import Family
from optimum_mixq.architectures.registry import register_family
from optimum_mixq.architectures.watching import WATCHED_ATTENTION


class Siglip(Family):
    model_type = "siglip"
    classifiers = ("SiglipForImageClassification",)

    def describe(self, model):
        raise NotImplementedError("Its attention alone is tried.")


@pytest.fixture
def siglip(monkeypatch):
    """A model whose configuration has two parts, of which it has the model of one: the text model is missing."""
    monkeypatch.setattr(registry, "FAMILIES", [*registry.FAMILIES])
    register_family(Siglip)
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = SiglipConfig(vision_config={**size, "image_size": 8, "patch_size": 4}, text_config={**size})
    return SiglipForImageClassification(config)


def implementations(model):
    """Return the attention of a configuration and of its parts, by name."""
    parts = {name: getattr(model.config, name) for name in model.config.sub_configs}
    return {name: part._attn_implementation for name, part in {"": model.config, **parts}.items()}


def test_parts_of_a_configuration_without_a_model_keep_their_attention(siglip):
    before = implementations(siglip)
    with routed_attention(siglip, WATCHED_ATTENTION):
        assert implementations(siglip) == before | {"": WATCHED_ATTENTION, "vision_config": WATCHED_ATTENTION}
    assert implementations(siglip) == before


def test_a_released_model_computes_attention_as_after_loading(vit, siglip):
    for model in (vit, siglip):
        before = implementations(model)
        route_attention(model, WATCHED_ATTENTION)
        assert WATCHED_ATTENTION in implementations(model).values()
        release_attention(model)
        assert implementations(model) == before
