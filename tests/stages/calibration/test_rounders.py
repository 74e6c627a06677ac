# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from conftest import make_model, random_pixels
from transformers import AutoModelForImageClassification

from optimum_mixq import MixQConfig, MixQQuantizer
from optimum_mixq.quant.grids import fake_quantize
from optimum_mixq.stages.calibration.observers import minmax_weight_grid, searched_weight_grid
from optimum_mixq.stages.calibration.rounders import (
    CompensatedRounder,
    NearestRounder,
    RoundedWeight,
    Rounder,
    base,
    register_rounder,
    rounder_of,
)


def options(**chosen):
    return MixQConfig(**chosen).calibration


def problem():
    """Return a weight (O, C) and the second moments (C, C) of inputs whose channels go together."""
    generator = torch.Generator().manual_seed(0)
    weight, rows = torch.randn(6, 20, generator=generator), torch.randn(200, 4, generator=generator)
    rows = rows @ torch.randn(4, 20, generator=generator) + 0.3 * torch.randn(200, 20, generator=generator)
    return weight, rows.T @ rows / 200


def cost(error, moment):
    return float((error @ moment * error).sum())


def test_compensation_or_a_name_decide_how_weights_are_rounded():
    assert type(rounder_of(options())) is CompensatedRounder
    assert type(rounder_of(options(compensation=False))) is NearestRounder
    assert type(rounder_of(options(rounder="nearest"))) is NearestRounder


def test_an_unknown_rounder_is_refused_with_the_names_of_those_there_are():
    with pytest.raises(ValueError, match="Expected rounder to be 'compensated' or 'nearest', found 'upwards'"):
        MixQConfig(rounder="upwards")
    with pytest.raises(ValueError, match="Expected rounder to be a name or None, found 3"):
        MixQConfig(rounder=3)


def test_a_rounder_and_what_it_replaces_are_not_both_given():
    with pytest.raises(ValueError, match="Expected compensation to be left out where rounder is given, found False"):
        MixQConfig(rounder="nearest", compensation=False)


@pytest.mark.parametrize("search", [True, False])
@pytest.mark.parametrize("name", ["compensated", "nearest"])
def test_rounded_weights_have_values_of_their_grid(name, search):
    weight, moment = problem()
    rounded = rounder_of(options(rounder=name, weight_search=search)).round(weight, 3, moment)
    torch.testing.assert_close(fake_quantize(rounded.values, rounded.grid), rounded.values)
    expected = searched_weight_grid(weight, 3, moment.diagonal()) if search else minmax_weight_grid(weight, 3)
    assert torch.equal(rounded.grid.scale, expected.scale)


def test_compensation_costs_the_output_less_than_nearest_values():
    weight, moment = problem()
    compensated, nearest = (
        rounder_of(options(rounder=name)).round(weight, 3, moment) for name in ("compensated", "nearest")
    )
    assert cost(weight - compensated.values, moment) < 0.7 * cost(weight - nearest.values, moment)


@pytest.mark.parametrize("name", ["compensated", "nearest"])
def test_a_weight_rounded_to_several_widths_is_what_each_width_gives_alone(name):
    weight, moment = problem()
    rounder = rounder_of(options(rounder=name))
    for bits, together in zip((2, 4, 8), rounder.round_to_each(weight, (2, 4, 8), moment), strict=True):
        alone = rounder.round(weight, bits, moment)
        assert together.grid.bits == bits and torch.equal(together.grid.scale, alone.grid.scale)
        torch.testing.assert_close(together.values, alone.values)


class Downwards(Rounder):
    """Each number gets the grid's next smaller value."""

    name = "downwards"

    def round(self, weight, bits, moment):
        assert moment.shape == (weight.shape[1], weight.shape[1])
        grid = minmax_weight_grid(weight, bits)
        codes = torch.floor(weight / grid.scale + grid.zero_point).clamp(0, grid.largest_code)
        return RoundedWeight((codes - grid.zero_point) * grid.scale, grid)


@torch.no_grad()
def test_a_rounder_from_outside_rounds_what_is_quantized_saved_and_loaded(monkeypatch, tmp_path):
    model = make_model("vit")

    def quantize(folder=None, **chosen):
        config = MixQConfig(calibration_samples=4, correction=False, balance=False, **chosen)
        return MixQQuantizer.from_pretrained(model).quantize(config, random_pixels(model, 8), folder, "uniform")

    with monkeypatch.context() as registered:
        registered.setattr(base, "ROUNDERS", {**base.ROUNDERS})
        register_rounder(Downwards)
        packed = quantize(tmp_path / "packed", rounder="downwards")
    layer, own = packed.vit.layers[0].attention.q_proj, model.vit.layers[0].attention.q_proj
    grid = layer.weight_grid
    # Values below the grid's first one stay there.
    exact = (own.weight / grid.scale + grid.zero_point).clamp(min=0)
    assert (layer.codes() <= exact + 1e-3).all()
    assert not (quantize().vit.layers[0].attention.q_proj.codes() <= exact + 1e-3).all()
    # What is saved loads where the rounder is not known.
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "packed")
    pixels = random_pixels(model, 5, seed=7)
    assert torch.equal(loaded(pixel_values=pixels).logits, packed(pixel_values=pixels).logits)
    assert loaded.config.quantization_config.rounder == "downwards"
