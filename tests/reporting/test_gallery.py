# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import gc
import weakref

import pytest
import torch
from conftest import make_model, random_pixels

from optimum_mixq.images.batches import Batch
from optimum_mixq.reporting.gallery import Gallery


NAMES = {0: "cat", 1: "dog", 2: "cow", 3: "hen", 4: "pig"}


@pytest.fixture
def model():
    model = make_model("vit")
    model.config.id2label = NAMES
    return model


def batch_of(model, count, labels=None, seed=0):
    return Batch(random_pixels(model, count, seed).cpu(), labels, ())


def test_images_with_another_answer_are_shown_the_furthest_apart_first(model):
    reference = torch.tensor([[5.0, 0, 0, 0, 0], [1.0, 0.9, 0, 0, 0], [3.0, 0, 0, 0, 0]])
    found = torch.tensor([[4.0, 0, 0, 0, 0], [1.0, 1.1, 0, 0, 0], [0, 0, 4.0, 0, 0]])
    gallery, batch = Gallery(model), batch_of(model, 3, torch.tensor([0, 1, 3]))
    gallery.add(batch, reference, found)
    first, second = gallery.disagreements()
    assert gallery.disagreeing == 2 and torch.equal(first.pixels, batch.pixel_values[2])
    assert (first.label, second.label) == ("hen", "dog") and first.divergence > second.divergence
    share = 100 * reference[2].softmax(0)[0]
    assert first.float_answer[0] == f"cat {share:.1f} %" and first.packed_answer[0].startswith("cow ")


def test_few_images_are_kept_however_many_go_by(model):
    gallery, alive = Gallery(model, first=2, differing=3), []
    generator = torch.Generator().manual_seed(0)
    for seed in range(20):
        batch = batch_of(model, 4, seed=seed)
        alive.append(weakref.ref(batch.pixel_values))
        gallery.add(batch, torch.randn(4, 5, generator=generator), torch.randn(4, 5, generator=generator))
    del batch
    gc.collect()
    assert len(gallery.first) == 2 and len(gallery.disagreements()) == 3 and gallery.disagreeing > 40
    assert [reference() for reference in alive] == [None] * 20
    assert all(entry.pixels.untyped_storage().nbytes() == entry.pixels.nbytes for entry in gallery.disagreements())


def test_models_that_agree_leave_nothing_to_show(model):
    gallery, logits = Gallery(model), torch.randn(4, 5)
    gallery.add(batch_of(model, 4), logits, logits + 0.01)
    assert gallery.disagreements() == () and gallery.disagreeing == 0


def test_numbers_have_no_answer_to_disagree_on_and_the_furthest_apart_are_shown(model):
    model.config.problem_type = "regression"
    gallery = Gallery(model, differing=1)
    found = torch.tensor([[0.0, 0, 0, 0, 0], [2.0, 0, 0, 0, 0]])
    gallery.add(batch_of(model, 2, torch.ones(2, 5)), torch.zeros(2, 5), found)
    (shown,) = gallery.disagreements()
    assert gallery.disagreeing == 0 and shown.label == "1, 1, 1" and shown.divergence == 2
    assert shown.packed_answer == ("cat: 2", "dog: 0", "cow: 0")


def test_heat_maps_say_what_the_float_model_answers(model):
    gallery = Gallery(model)
    gallery.add(batch_of(model, 3), torch.zeros(3, 5), torch.zeros(3, 5))
    maps = gallery.heat_maps(model, 2)
    with torch.inference_mode():
        logits = model(pixel_values=torch.stack([shown.pixels for shown in maps]).to(model.device)).logits
    assert [shown.caption.split()[0] for shown in maps] == [NAMES[row] for row in logits.argmax(-1).tolist()]
    assert maps[0].relevance.shape == maps[0].pixels.shape[1:]
