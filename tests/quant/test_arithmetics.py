# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from conftest import make_model, random_pixels
from transformers import AutoModelForImageClassification

from optimum_mixq import BitPlan, MixQConfig, MixQQuantizer
from optimum_mixq.pipeline import prepare_for_training
from optimum_mixq.quant.arithmetics import ColumnArithmetic, arithmetic_names, arithmetic_of, base, register_arithmetic
from optimum_mixq.quant.grids import dequantize, quantize, uniform_grid
from optimum_mixq.quant.packed import PackedLinear
from optimum_mixq.stages.allocation.costs import measure_costs


NAMES = ["column", "folded"]


def problem(bits=4, outputs=5, inputs=7):
    """Return a weight (O, C), the input's scales (C,), and the second moments (C, C) of some inputs."""
    generator = torch.Generator().manual_seed(bits)
    weight, rows = torch.randn(outputs, inputs, generator=generator), torch.randn(50, inputs, generator=generator)
    return weight, 0.1 + torch.rand(inputs, generator=generator), rows.T @ rows / 50


@pytest.mark.parametrize("name", NAMES)
def test_what_goes_to_the_grid_comes_back(name):
    weight, scale, _ = problem()
    arithmetic = arithmetic_of(name)
    torch.testing.assert_close(arithmetic.from_grid(arithmetic.to_grid(weight, scale), scale), weight)


@pytest.mark.parametrize("name", NAMES)
def test_an_error_on_the_grid_costs_what_it_does_to_the_output(name):
    error, scale, moment = problem()
    arithmetic = arithmetic_of(name)
    gridded, on_grid = arithmetic.to_grid(error, scale), arithmetic.moments_on_grid(moment, scale)
    torch.testing.assert_close((gridded @ on_grid * gridded).sum(1), (error @ moment * error).sum(1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", range(2, 9))
def test_the_operand_is_of_integers_that_multiply_as_the_effective_weight_does(name, bits):
    weight, scale, _ = problem(bits)
    arithmetic = arithmetic_of(name).of_layer(bits)
    gridded = arithmetic.to_grid(weight, scale)
    grid = uniform_grid(gridded.amin(1, keepdim=True), gridded.amax(1, keepdim=True), bits)
    codes = quantize(gridded, grid)
    operand, operand_scale = arithmetic.operand(codes, grid, scale)
    assert torch.equal(operand, operand.round()) and operand.abs().amax() < 256
    effective = arithmetic.effective_weight(dequantize(codes, grid), scale)
    torch.testing.assert_close(operand * operand_scale / scale, effective)


def test_gradients_pass_straight_through_the_operand():
    weight, scale, _ = problem()
    weight.requires_grad_()
    arithmetic_of("column").effective_weight(weight, scale).sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))


def test_weights_as_wide_as_the_operand_are_folded():
    column = arithmetic_of("column")
    assert column.of_layer(8).name == "folded" and column.of_layer(7) is column
    assert arithmetic_of("folded").of_layer(3).name == "folded"


def test_an_unknown_arithmetic_is_refused_with_the_names_of_those_there_are():
    with pytest.raises(ValueError, match="Expected arithmetic to be 'column' or 'folded', found 'fast'"):
        arithmetic_of("fast")


class Coarse(ColumnArithmetic):
    """Its operand has six bits instead of eight."""

    name = "coarse"

    def of_layer(self, weight_bits):
        return self

    def bit_operations(self, weight_bits, input_bits):
        return 6 * input_bits

    def effective_weight(self, values, input_scale):
        operand, scale = self._round(values.detach(), input_scale)
        return values + (operand * scale / input_scale - values).detach()

    def operand(self, codes, grid, input_scale):
        return self._round(dequantize(codes, grid), input_scale)

    def weight_codes(self, codes, grid, input_scale):
        return None

    def _round(self, values, input_scale):
        scaled = values * input_scale
        scale = scaled.abs().amax(1, keepdim=True).clamp(min=1e-9) / 31
        return torch.round(scaled / scale), scale


@pytest.fixture
def coarse(monkeypatch):
    monkeypatch.setattr(base, "ARITHMETICS", {**base.ARITHMETICS})
    return register_arithmetic(Coarse)


@torch.no_grad()
def logits(model):
    return model(pixel_values=random_pixels(model, 5, seed=7)).logits


def test_an_arithmetic_from_outside_is_measured_quantized_saved_and_loaded(coarse, tmp_path):
    assert arithmetic_names() == ("coarse", "column", "folded")
    model = make_model("vit")
    config = MixQConfig(
        arithmetic="coarse", tie_bits=True, candidate_bits=(3, 4, 5), calibration_samples=4, sensitivity_samples=4,
        compare=False,
    )  # fmt: skip
    quantizer = MixQQuantizer.from_pretrained(model)
    packed = quantizer.quantize(config, random_pixels(model, 8), tmp_path / "packed")
    layers = [module for module in packed.modules() if isinstance(module, PackedLinear)]
    assert {layer.arithmetic.name for layer in layers} == {"coarse"}
    assert max(int(layer.product().operand.abs().amax()) for layer in layers) == 31
    costs = measure_costs(model, config.calibration)
    assert costs.unit_bops("blocks.0.fc1", (3, 5)) == costs.macs["blocks.0.fc1"] * 30
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "packed")
    assert torch.equal(logits(loaded), logits(packed))
    column = MixQQuantizer.from_pretrained(model).quantize(
        MixQConfig(calibration_samples=4), random_pixels(model, 8), plan=quantizer.plan
    )
    assert not torch.equal(logits(column), logits(packed))


def test_an_arithmetic_from_outside_trains(coarse):
    model = make_model("vit")
    trainable = prepare_for_training(
        model, BitPlan.uniform(model, 4), [random_pixels(model, 8)], MixQConfig(arithmetic="coarse")
    )
    pixels = random_pixels(model, 5, seed=7)
    trained = trainable.train()(pixel_values=pixels).logits
    trained.square().sum().backward()
    assert all(parameter.grad is not None for parameter in trainable.parameters())
    torch.testing.assert_close(trained.detach(), logits(trainable.eval()), rtol=0.1, atol=0.1)


def test_a_model_of_an_arithmetic_that_is_not_registered_is_refused_by_name(monkeypatch, tmp_path):
    model = make_model("vit")
    with monkeypatch.context() as registered:
        registered.setattr(base, "ARITHMETICS", {**base.ARITHMETICS, "coarse": Coarse()})
        config = MixQConfig(arithmetic="coarse", calibration_samples=4)
        MixQQuantizer.from_pretrained(model).quantize(config, random_pixels(model, 4), tmp_path / "it", "uniform")
    with pytest.raises(ValueError, match="Expected arithmetic to be 'column' or 'folded', found 'coarse'"):
        AutoModelForImageClassification.from_pretrained(tmp_path / "it")
