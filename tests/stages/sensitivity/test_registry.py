# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import dataclasses

import pytest
from conftest import random_pixels

from optimum_mixq import MixQConfig, MixQQuantizer, SensitivityTable
from optimum_mixq.architectures.describe import describe
from optimum_mixq.stages.sensitivity import registry
from optimum_mixq.stages.sensitivity.registry import Method, Metric, register_method, register_metric


SMALL = MixQConfig(
    bits=4, calibration_samples=4, sensitivity_samples=4, batch_size=4, compare=False, alpha=0, tie_bits=True
)


@pytest.fixture
def emptied_afterwards(monkeypatch):
    """Take what a test registers out of the registries again."""
    monkeypatch.setattr(registry, "_metrics", dict(registry._metrics))
    monkeypatch.setattr(registry, "_methods", dict(registry._methods))


def test_a_metric_of_your_own_is_asked_about_every_variant(vit, emptied_afterwards):
    asked = []

    @register_metric
    class Largest(Metric):
        name = "largest"

        def damages(self, compared):
            asked.append(compared)
            return (compared.logits - compared.reference).abs().amax(-1).double()

    quantizer = MixQQuantizer.from_pretrained(vit)
    quantizer.quantize(dataclasses.replace(SMALL, metric="largest", sensitivity="measured"), random_pixels(vit, 8))
    units, candidates = describe(vit).units, 4
    assert len(asked) == 1 + len(units) * candidates  # the baseline, and each unit at 3, 4, 5 and 6 bits
    assert quantizer.sensitivity.metric == "largest"
    assert quantizer.sensitivity.baseline_damage > 0  # the reference is the float model


def test_a_method_of_your_own_makes_the_table_that_the_plan_is_chosen_from(vit, emptied_afterwards):
    @register_method
    class LastBlockFirst(Method):
        name = "by_place"

        def measure(self, inputs, fingerprint):
            units = [unit.name for unit in describe(inputs.model).units]
            table = {
                unit: {bits: 2.0**place * 4.0 ** -bits[1] for bits in inputs.candidates}
                for place, unit in enumerate(units)
            }
            count = sum(map(len, inputs.batches))
            return SensitivityTable(table, inputs.baseline, 0.0, self.name, count, fingerprint)

    config, pixels = dataclasses.replace(SMALL, sensitivity="by_place"), random_pixels(vit, 8)
    quantizer = MixQQuantizer.from_pretrained(vit)
    quantizer.quantize(config, pixels)
    table, bits = quantizer.sensitivity, quantizer.plan.bits
    assert table.metric == "by_place" and table.images == 4
    assert bits["blocks.2.fc2"][0] > bits["blocks.0.fc2"][0]
    # Another method's table is another table, and its own is used again.
    assert quantizer.measure_sensitivity(pixels, config) is table
    assert quantizer.measure_sensitivity(pixels, SMALL) is not table


def test_an_unknown_name_is_refused_with_those_that_are_known():
    known = "first-order, gradient, fisher, hawq, measured"
    with pytest.raises(ValueError, match=f"Expected sensitivity to be one of {known}, found 'guessed'"):
        registry.method_of("guessed")
    with pytest.raises(ValueError, match="Expected metric to be one of shift, kl, cross_entropy, accuracy, found 'x'"):
        registry.metric_of("x")
    with pytest.raises(ValueError, match="Expected metric to be 'shift', 'kl', 'cross_entropy' or 'accuracy', found"):
        MixQConfig(metric="x", sensitivity="measured")
