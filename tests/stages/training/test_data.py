# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from conftest import random_pixels
from torch.utils.data import DataLoader, TensorDataset

from optimum_mixq import MixQConfig, MixQQuantizer, MixQTrainingConfig, open_images
from optimum_mixq.stages.training.data import TrainingImages


def training_images(model, labels, **options):
    loader = DataLoader(TensorDataset(random_pixels(model, len(labels)), labels))
    return TrainingImages(open_images(loader, model, None), MixQTrainingConfig(**options))


def test_a_class_number_comes_with_each_image_and_minus_one_where_there_is_none(vit):
    images = training_images(vit, torch.tensor([3, -1, 0]))
    assert [images[row][1] for row in range(3)] == [3, -1, 0]


def test_labels_of_several_classes_are_not_trained_on(vit):
    vit.config.problem_type = "multi_label_classification"
    several = torch.eye(5)[:2]
    assert training_images(vit, several)[0][1] == -1
    with pytest.raises(
        ValueError, match=r"Expected one class per image to train on with distillation=0.5, found a vec"
    ):
        training_images(vit, several, distillation=0.5)[0]


def test_training_on_labels_names_one_that_is_no_class(vit):
    loader = DataLoader(TensorDataset(random_pixels(vit, 8), torch.tensor([0, 1, 2, 3, 4, 0, 9, 1])))
    config = MixQConfig(bits=4, calibration_samples=4, batch_size=4)
    training = MixQTrainingConfig(epochs=1, batch_size=4, distillation=0.5)
    with pytest.raises(ValueError, match="Row 6 of the DataLoader has label 9, but the model has 5 classes"):
        MixQQuantizer(vit, None).train(loader, training, config, "uniform")
