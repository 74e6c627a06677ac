# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Heads that the class of a model does not build: an MLP, none, and one that reads the mean of all tokens."""

import pytest
import torch
from conftest import build_random, make_model, random_pixels
from torch import nn
from transformers import AutoModelForImageClassification, ViTForImageClassification
from transformers.modeling_outputs import ImageClassifierOutput

from optimum_mixq import MixQConfig, MixQQuantizer, measure_relevance
from optimum_mixq.architectures.describe import describe
from optimum_mixq.images.batches import Batch
from optimum_mixq.tasks import run_model


ENCODERS = (
    "beit", "clip", "deit", "dinov2", "dinov2_with_registers", "ijepa", "siglip", "swin", "swinv2", "vit", "vit_msn",
)  # fmt: skip
QUICK = MixQConfig(calibration_samples=4)


def with_mlp(kind):
    """Return a subclass whose head is an MLP."""

    class OwnHead(kind):
        def __init__(self, config):
            super().__init__(config)
            width = self.classifier.in_features
            self.classifier = nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, config.num_labels))
            self.post_init()

    return OwnHead


class MeanOfTokens(ViTForImageClassification):
    """A ViT whose head reads the mean of all tokens."""

    def forward(self, pixel_values, **_):
        return ImageClassifierOutput(logits=self.classifier(self.vit(pixel_values).last_hidden_state.mean(1)))


def check(model, kind, folder):
    """Quantize, save and load a model, and return the packed one."""
    pixels = random_pixels(model, 8)
    relevance = measure_relevance(model, [Batch(pixels[:2], None, ())])
    assert relevance.conservation_error < 1e-4
    packed = MixQQuantizer.from_pretrained(model).quantize(QUICK, pixels, folder, plan="uniform")
    loaded = kind.from_pretrained(folder).to(model.device)
    with torch.no_grad():
        assert torch.equal(run_model(loaded, pixels), run_model(packed, pixels))
    return packed


@pytest.mark.parametrize("name", ENCODERS)
def test_a_head_of_two_layers_is_quantized_and_loads_again_by_its_class(name, tmp_path):
    plain = make_model(name)
    kind = with_mlp(type(plain))
    packed = check(build_random(lambda: kind(plain.config)), kind, tmp_path / "out")
    assert describe(packed).heads == ("classifier.0", "classifier.2")
    assert {packed.get_submodule(head).weight_bits for head in describe(packed).heads} == {8}


# A SigLIP initialises the weight of its head, and so cannot be built without one (transformers 5.23).
@pytest.mark.parametrize("name", [name for name in ENCODERS if name != "siglip"])
def test_a_classifier_without_a_head_puts_out_what_the_head_would_read(name, tmp_path):
    plain = make_model(name)
    plain.config.num_labels = 0
    packed = check(build_random(lambda: type(plain)(plain.config)), AutoModelForImageClassification, tmp_path / "out")
    assert describe(packed).heads == ()


def test_a_head_may_read_the_mean_of_all_tokens(tmp_path):
    check(build_random(lambda: MeanOfTokens(make_model("vit").config)), MeanOfTokens, tmp_path / "out")
