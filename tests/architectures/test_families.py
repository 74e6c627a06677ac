# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The whole pipeline for each family that is registered."""

import re
from pathlib import Path

import pytest
import torch
import transformers
from conftest import BUILDERS, make_model, random_pixels

from optimum_mixq import BitPlan, MixQConfig, MixQQuantizer, pack_trained, prepare_for_training
from optimum_mixq.architectures.describe import describe
from optimum_mixq.architectures.registry import FAMILIES
from optimum_mixq.architectures.rules import PositiveLinear
from optimum_mixq.images.batches import Batch
from optimum_mixq.stages.relevance.measure import measure_relevance
from optimum_mixq.tasks import run_model
from optimum_mixq.tasks.loading import class_that_loads


ROOT = Path(__file__).parents[2]
SMALL = {"calibration_samples": 8, "relevance_samples": 2, "sensitivity_samples": 4, "candidate_bits": (3, 5)}
# What the other tests run the pipeline on anyway. (The class of a DeiT with two heads has no Auto class of its own.)
USUAL = {"vit", "deit", "swin", "padded_swin"}
# Folding, and a measured table, of each family have tests of their own: together those of a decoder, of keys that are
# reduced, of a rotation, and of norms that follow the layers.
TOGETHER = {"upernet", "segformer", "gated_dinov3", "swinv2"}
PLANNED = [
    pytest.param(name, *options, marks=pytest.mark.slow if name in USUAL or (folded and name not in TOGETHER) else ())
    for name in sorted(BUILDERS.keys() - {"deit_with_teacher"})
    for folded, options in enumerate([("column", "gradient", "light", True), ("folded", "measured", None, False)])
]


@torch.no_grad()
def logits(model, pixels):
    return run_model(model, pixels)


def test_every_registered_family_has_a_small_model():
    built = {build().config.model_type for build in BUILDERS.values()}
    assert built == {family.model_type for family in FAMILIES}


def test_the_readme_and_the_page_of_models_list_the_families_and_their_classes():
    text = (ROOT / "README.md").read_text()
    listed = re.search(r"Model types of transformers: (.*?)\s\(", text, re.S)[1]
    assert re.findall(r"`(\w+)`", listed) == sorted(family.model_type for family in FAMILIES)
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", (ROOT / "docs" / "supported-models.md").read_text(), re.M)
    expected = sorted((family.model_type, [*family.classes]) for family in FAMILIES)
    assert [(model_type, re.findall(r"`(\w+)`", classes)) for model_type, classes in rows] == expected


@pytest.mark.parametrize(("name", "arithmetic", "sensitivity", "reconstruction", "compare"), PLANNED)
def test_a_mixed_plan_is_chosen_packed_saved_and_loaded(
    name, arithmetic, sensitivity, reconstruction, compare, tmp_path
):
    model = make_model(name)
    pixels = random_pixels(model, 12).cpu()
    quantizer = MixQQuantizer.from_pretrained(model)
    ways = {"arithmetic": arithmetic, "sensitivity": sensitivity, "reconstruction": reconstruction}
    config = MixQConfig(bits=4, compare=compare, tie_bits=True, **ways, **SMALL)
    packed = quantizer.quantize(config, pixels, save_dir=tmp_path / "packed")
    assert list(quantizer.plan.bits) == [unit.name for unit in describe(model).units]
    assert quantizer.plan.provenance["achieved"]["average_bits"] <= 4
    assert quantizer.relevance.conservation_error < 1e-4
    loaded = getattr(transformers, class_that_loads(packed)).from_pretrained(tmp_path / "packed").to(model.device)
    images = pixels.to(model.device)
    assert type(loaded) is type(model) and torch.equal(logits(loaded, images), logits(packed, images))


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_it_is_trained_and_packed(name):
    model = make_model(name)
    pixels = random_pixels(model, 8)
    learner = prepare_for_training(model, BitPlan.uniform(model, 4), [pixels], MixQConfig(arithmetic="folded"))
    run_model(learner, pixels).square().mean().backward()
    steps = [parameter for part, parameter in learner.named_parameters() if part.endswith("_step")]
    assert steps and all(step.grad is not None for step in steps)
    learner.eval()
    assert torch.allclose(logits(pack_trained(learner), pixels), logits(learner, pixels), atol=1e-3)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_each_layer_that_a_head_depends_on_propagates_by_its_rule(name, monkeypatch):
    model, seen = make_model(name), []
    propagate = PositiveLinear.forward
    monkeypatch.setattr(PositiveLinear, "forward", lambda *arguments: seen.append(1) or propagate(*arguments))
    measure_relevance(model, [Batch(random_pixels(model, 2), None, ())])
    architecture = describe(model)
    assert len(seen) >= len(architecture.unit_of_module) + len(architecture.heads)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BUILDERS))
@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_engines_run_what_is_exported(name, target, tmp_path):
    model = make_model(name).cpu()
    pixels = random_pixels(model, 12).cpu()
    quantizer = MixQQuantizer.from_pretrained(model)
    quantizer.quantize(MixQConfig(bits=6, calibration_samples=8), pixels, plan="uniform")
    check = quantizer.export(target, tmp_path / "out", dataset=list(pixels)).check
    assert check.distance < 0.05 and check.integer_products == check.products
