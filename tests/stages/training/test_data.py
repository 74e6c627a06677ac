# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from conftest import random_pixels
from torch.utils.data import DataLoader, TensorDataset

from optimum_mixq import MixQConfig, MixQQuantizer, MixQTrainingConfig, open_images
from optimum_mixq.stages.training.data import TrainingImages
from optimum_mixq.tasks import task_of


def training_images(model, labels, **options):
    loader = DataLoader(TensorDataset(random_pixels(model, len(labels)), labels))
    return TrainingImages(open_images(loader, model, None), MixQTrainingConfig(**options), task_of(model))


def test_a_target_comes_with_each_image_and_no_numbers_where_there_is_no_label(vit):
    images = training_images(vit, torch.tensor([3, -1, 0]))
    assert images[0][1].tolist() == [0, 0, 0, 1, 0] and images[2][1].tolist() == [1, 0, 0, 0, 0]
    assert images[1][1].isnan().all()


def test_several_labels_of_an_image_are_its_target(vit):
    vit.config.problem_type = "multi_label_classification"
    several = torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    images = training_images(vit, several)
    assert torch.equal(images[0][1], several[0]) and torch.equal(images[1][1], several[1])


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        ("multi_label_classification", (torch.arange(40).reshape(8, 5) % 3 == 0).float()),
        ("regression", torch.arange(40).reshape(8, 5) / 10),
    ],
)
def test_other_tasks_than_one_class_train_on_their_labels(vit, problem_type, labels):
    vit.config.problem_type = problem_type
    loader = DataLoader(TensorDataset(random_pixels(vit, 8), labels))
    quantizer = MixQQuantizer(vit, None)
    training = MixQTrainingConfig(epochs=16, batch_size=4, distillation=0.0, learning_rate=3e-3, flip=False, shift=0.0)
    config = MixQConfig(bits=4, calibration_samples=4, batch_size=4)
    quantizer.train(loader, training, config, "uniform")
    losses = [epoch.loss for epoch in quantizer.history]
    assert losses[-1] < 0.99 * losses[0]


def test_training_on_labels_names_one_that_is_no_class(vit):
    loader = DataLoader(TensorDataset(random_pixels(vit, 8), torch.tensor([0, 1, 2, 3, 4, 0, 9, 1])))
    config = MixQConfig(bits=4, calibration_samples=4, batch_size=4)
    training = MixQTrainingConfig(epochs=1, batch_size=4, distillation=0.5)
    with pytest.raises(ValueError, match="Row 6 of the DataLoader has label 9, but the model has 5 classes"):
        MixQQuantizer(vit, None).train(loader, training, config, "uniform")
