# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import copy
from typing import ClassVar

import pytest
import torch
from conftest import make_model, random_pixels
from transformers import AutoModelForImageClassification

from optimum_mixq import pipeline
from optimum_mixq.architectures.describe import describe
from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import MixQConfig
from optimum_mixq.pipeline import learning_helped, prepare, quantize_model
from optimum_mixq.quant.learned import LearnedAttention, LearnedLinear
from optimum_mixq.stages.calibration.blocks import calibrate
from optimum_mixq.stages.packing import make_trainable, pack
from optimum_mixq.stages.reconstruction import learn
from optimum_mixq.stages.reconstruction import reconstruct as room
from optimum_mixq.stages.reconstruction.budgets import BUDGETS, Budget
from optimum_mixq.stages.reconstruction.learn import draw_batches, judge
from optimum_mixq.stages.reconstruction.reconstruct import Reconstruction, split_images
from optimum_mixq.tasks import run_model


SHORT = Budget(iterations=12, batch_size=8)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setitem(BUDGETS, "full", SHORT)
    monkeypatch.setattr(pipeline, "learning_helped", lambda *_: True)  # tests of it are below


def options(**given):
    return MixQConfig(**{"bits": 3, "reconstruction": "full", "reconstruction_loss": "output", **given})


@torch.no_grad()
def logits(model, pixels):
    return run_model(model, pixels)


@pytest.mark.parametrize(
    "name, arithmetic", [("vit", "column"), ("vit", "folded"), ("deit_with_teacher", "column"), ("swin", "folded")]
)
def test_the_packed_model_computes_what_was_learned(name, arithmetic, monkeypatch):
    monkeypatch.setattr(learn.BlockErrors, "helped", property(lambda errors: True))
    model, plan = make_model(name), BitPlan.uniform(make_model(name), 3)
    pixels = random_pixels(model, 32)
    learned = prepare(model, plan, [pixels], options(arithmetic=arithmetic))
    assert any(isinstance(module, LearnedLinear) for module in learned.modules())
    assert any(isinstance(module, LearnedAttention) for module in learned.modules())
    assert torch.equal(logits(pack(learned), pixels), logits(learned, pixels))


class Watched(Reconstruction):
    """Judges each block on the images that it learns from, before and after."""

    errors: ClassVar[list[tuple[float, float]]] = []

    def __call__(self, run, expected, held, held_expected):
        before = judge(run, expected, self._loss, 0)
        super().__call__(run, expected, held, held_expected)
        self.errors.append((before, judge(run, expected, self._loss, 0)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_come_nearer_to_the_float_model_on_the_images_that_they_learn_from(vit, dtype, monkeypatch):
    # In bfloat16 they do so only where no iteration gets a bias that was converted before.
    monkeypatch.setattr(learn, "fast_products", lambda _: torch.autocast("cpu", dtype, dtype == torch.bfloat16))
    monkeypatch.setattr(room, "Reconstruction", Watched)
    monkeypatch.setattr(Watched, "errors", [])
    monkeypatch.setattr(learn.BlockErrors, "helped", property(lambda errors: True))
    monkeypatch.setitem(BUDGETS, "full", Budget(120, 64, 0.02, 0.003, 0.003))
    prepare(vit, BitPlan.uniform(vit, 3), [random_pixels(vit, 64)], options())
    assert len(Watched.errors) == 3
    assert all(after < 0.99 * before for before, after in Watched.errors)


def test_a_block_that_learning_harms_stays_as_it_was_calibrated(vit, monkeypatch):
    monkeypatch.setitem(BUDGETS, "full", Budget(iterations=3, batch_size=8, weight_rate=50.0, other_rate=50.0))
    plan, pixels = BitPlan.uniform(vit, 4), random_pixels(vit, 32)
    seen, _ = split_images([pixels])
    found = prepare(vit, plan, [pixels], options(bits=4)).state_dict()
    calibrated = calibrate(vit, plan, seen, options(bits=4)).state_dict()
    assert found.keys() == calibrated.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in calibrated.items())


def test_held_out_images_change_neither_ranges_nor_weights(vit, monkeypatch):
    monkeypatch.setattr(learn.BlockErrors, "helped", property(lambda errors: True))
    plan, pixels = BitPlan.uniform(vit, 4), random_pixels(vit, 32)
    other = torch.cat([pixels[:28], random_pixels(vit, 4, seed=11) * 3])
    first, second = (prepare(vit, plan, [images], options(bits=4)).state_dict() for images in (pixels, other))
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())


def test_layers_that_read_the_same_tensor_keep_one_grid(vit):
    learned = prepare(vit, BitPlan.uniform(vit, 3), [random_pixels(vit, 32)], options())
    for unit in describe(learned).units:
        layers = [learned.get_submodule(name) for name in unit.modules]
        for layer in layers:
            assert torch.equal(layer.input_grid.scale, layers[0].input_grid.scale)
            assert torch.equal(layer.input_grid.zero_point, layers[0].input_grid.zero_point)


def test_a_run_that_goes_on_ends_at_the_same_bytes(vit, tmp_path, monkeypatch):
    plan, pixels = BitPlan.uniform(vit, 3), random_pixels(vit, 32)
    whole = prepare(vit, plan, [pixels], options()).state_dict()
    learned = []

    def stop_at_the_third(*arguments):
        learned.append(1)
        if len(learned) == 3:
            raise KeyboardInterrupt
        return learn.learn_block(*arguments)

    monkeypatch.setattr(room, "learn_block", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        prepare(vit, plan, [pixels], options(), work=tmp_path)
    found = prepare(vit, plan, [pixels], options(), work=tmp_path).state_dict()
    assert len(learned) == 3 + 1  # of three blocks, two were there
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())


def test_a_run_with_other_images_or_options_starts_anew(vit, tmp_path, monkeypatch):
    monkeypatch.setitem(BUDGETS, "full", Budget(iterations=1, batch_size=8))
    plan, pixels = BitPlan.uniform(vit, 3), random_pixels(vit, 32)
    prepare(vit, plan, [pixels], options(), work=tmp_path)
    prepare(vit, plan, [random_pixels(vit, 32, seed=5)], options(), work=tmp_path)
    prepare(vit, plan, [pixels], options(reconstruction_loss="fisher"), work=tmp_path)
    prepare(vit, BitPlan.uniform(vit, 4), [pixels], options(), work=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_the_float_model_is_left_as_it_is(vit):
    before = copy.deepcopy(vit.state_dict())
    prepare(vit, BitPlan.uniform(vit, 3), [random_pixels(vit, 32)], options())
    assert all(torch.equal(tensor, before[name]) for name, tensor in vit.state_dict().items())
    assert all(parameter.grad is None for parameter in vit.parameters())


def test_quantizing_with_reconstruction_saves_a_model_that_reloads_to_the_bit(vit, tmp_path):
    pixels = random_pixels(vit, 32)
    packed = quantize_model(vit, BitPlan.uniform(vit, 3), [pixels], options())
    packed.save_pretrained(tmp_path)
    reloaded = AutoModelForImageClassification.from_pretrained(tmp_path).to(vit.device)
    assert torch.equal(logits(reloaded, pixels), logits(packed, pixels))
    assert reloaded.config.quantization_config.reconstruction == "full"


def test_training_starts_from_what_was_learned(vit):
    learned = prepare(vit, BitPlan.uniform(vit, 3), [random_pixels(vit, 32)], options())
    trainable = make_trainable(learned)
    layers = [module for module in trainable.modules() if isinstance(module, (LearnedLinear, LearnedAttention))]
    assert layers and all(parameter.requires_grad for parameter in trainable.parameters())
    pixels = random_pixels(vit, 4)
    assert torch.equal(logits(trainable.eval(), pixels), logits(learned, pixels))


def test_an_eighth_of_the_images_is_held_out():
    seen, held = split_images(list(torch.arange(100).view(-1, 1, 1, 1).split(32)))
    assert torch.cat(seen).flatten().tolist() == list(range(88))
    assert torch.cat(held).flatten().tolist() == list(range(88, 100))
    assert max(map(len, seen)) <= 32


def test_a_model_that_learning_leads_away_is_calibrated_on_all_images_instead(vit, monkeypatch):
    asked = []
    monkeypatch.setattr(pipeline, "learning_helped", lambda *given: asked.append(given))
    plan, pixels = BitPlan.uniform(vit, 3), random_pixels(vit, 32)
    found = prepare(vit, plan, [pixels], options()).state_dict()
    expected = prepare(vit, plan, [pixels], options(reconstruction="light")).state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    ((model, learned, calibrated, held_out, temperature),) = asked
    assert model is vit and torch.equal(torch.cat(held_out), pixels[28:]) and temperature == options().temperature
    assert any(isinstance(module, LearnedLinear) for module in learned.modules())
    rival = prepare(vit, plan, [pixels[:28]], options(reconstruction="light"))
    assert torch.equal(logits(calibrated, pixels), logits(rival, pixels))


def test_of_two_models_the_one_nearer_to_the_float_model_is_told(vit):
    held_out = list(random_pixels(vit, 8).split(4))
    near, far = (calibrate(vit, BitPlan.uniform(vit, bits), held_out, options()) for bits in (8, 2))
    assert learning_helped(vit, near, far, held_out, 4.0) and not learning_helped(vit, far, near, held_out, 4.0)
    assert not learning_helped(vit, near, near, held_out, 4.0)


def test_too_few_images_to_learn_from_are_refused(vit):
    with pytest.raises(ValueError, match=r"Expected at least 16 calibration images .*, found 8\. Add images"):
        prepare(vit, BitPlan.uniform(vit, 3), [random_pixels(vit, 8)], options())


def test_every_image_is_drawn_as_often_as_any_other():
    budget = Budget(iterations=10, batch_size=4)
    rows = torch.cat(list(draw_batches(8, budget, torch.Generator().manual_seed(0))))
    assert rows.bincount().tolist() == [5] * 8
    assert len(next(iter(draw_batches(3, budget, torch.Generator().manual_seed(0))))) == 3
