# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch

from optimum_mixq.stages.training.metrics import load_accuracy


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_accuracy_adds_batches_up_without_a_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    metric = load_accuracy()
    metric.add_batch(predictions=torch.tensor([1, 2, 3]), references=torch.tensor([1, 0, 3]))
    metric.add_batch(predictions=[4], references=[4])
    assert metric.compute() == {"accuracy": 0.75}
