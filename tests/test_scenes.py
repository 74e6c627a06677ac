# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The scenes that small models of other tasks than classification are trained and judged on."""

import sys
from pathlib import Path

import pytest
import torch


EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def scenes(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import scenes

    yield scenes
    del sys.modules["scenes"]


@pytest.fixture
def source():
    """Twenty images of a bright square on black, and labels 0 to 9."""
    images = torch.zeros(20, 28, 28, dtype=torch.uint8)
    images[:, 6:22, 4:24] = 200
    return images, torch.arange(20) % 10


def test_number_and_split_alone_decide_what_a_scene_is(scenes, source):
    first, second = (list(scenes.compose_scenes(*source, [3, 4], "train")) for _ in range(2))
    assert all(torch.equal(one.image, two.image) for one, two in zip(first, second, strict=True))
    (alone,) = scenes.compose_scenes(*source, [4], "train")
    (other,) = scenes.compose_scenes(*source, [4], "test")
    assert torch.equal(alone.image, first[1].image) and not torch.equal(alone.image, other.image)


def test_scenes_are_made_of_the_shipped_images_too(scenes):
    images, labels = scenes.load_shipped_split("train")
    assert images.shape == (256, 28, 28) and images.dtype == torch.uint8 and labels.shape == (256,)
    assert 0 <= int(labels.min()) < int(labels.max()) < 10
    (scene,) = scenes.compose_scenes(images, labels, [0], "train")
    assert set(scene.mask.unique().tolist()) - {0} >= {1 + number for number in scene.classes.tolist()}


def test_masks_boxes_and_classes_tell_of_the_same_objects(scenes, source):
    for scene in scenes.compose_scenes(*source, range(12), "train"):
        assert scene.image.shape == scene.mask.shape == (96, 96) and scene.picture().mode == "RGB"
        assert 1 <= len(scene.boxes) == len(scene.classes) <= 5
        bright = scene.image >= 100
        assert (scene.mask[bright] > 0).all()  # noise stays below
        for box, number in zip(scene.boxes.int().tolist(), scene.classes.tolist(), strict=True):
            left, top, right, bottom = box
            inside = scene.mask[top:bottom, left:right] == number + 1
            assert inside.any(0)[[0, -1]].all() and inside.any(1)[[0, -1]].all()  # it touches all four sides


def test_objects_are_given_to_a_detectors_loss_in_parts_of_the_scene(scenes, source):
    import train_scene_detector

    made = list(scenes.compose_scenes(*source, range(3), "train"))
    pixels, objects = train_scene_detector.to_batch(made)
    assert pixels.shape == (3, 3, scenes.SIDE, scenes.SIDE)
    for scene, given in zip(made, objects, strict=True):
        assert torch.equal(given["class_labels"], scene.classes)
        center, sides = given["boxes"].split(2, -1)
        corners = scenes.SIDE * torch.cat([center - sides / 2, center + sides / 2], -1)
        torch.testing.assert_close(corners, scene.boxes)
    for name in ("train_scene_detector", "train_scene_models"):
        del sys.modules[name]
