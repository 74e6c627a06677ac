# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from exported_models import pack, pixels_for

from optimum_mixq.architectures.describe import describe
from optimum_mixq.export.layers import Affine, ExportEmbedding, ExportLinear, Rounding, round_to_integers
from optimum_mixq.integration.fusion import separate_layers
from optimum_mixq.kernels import IntegerProduct


@pytest.fixture(scope="module", params=["column", "folded"])
def packed(request):
    model = pack("shallow_vit", "mixed", request.param)
    separate_layers(model)
    return model


def linear_layers(model):
    return [model.get_submodule(name) for name in describe(model).unit_of_module]


def test_an_exported_layer_differs_by_half_a_step_of_its_integer_bias(packed):
    generator = torch.Generator().manual_seed(0)
    for layer in linear_layers(packed):
        grid, exported = layer.input_grid, ExportLinear.from_packed(layer)
        codes = torch.randint(-2, 2**grid.bits + 2, (3, 7, layer.in_features), generator=generator)
        input = (codes - grid.zero_point) * grid.scale
        step = exported.scale / 2 * 1.001 + 1e-6
        assert ((exported(input) - layer(input)).abs() <= step).all()


def test_what_is_applied_to_an_output_is_in_its_scales_and_bias(packed):
    layer = linear_layers(packed)[0]
    multiplier, offset = torch.rand(layer.out_features).double() + 0.5, torch.randn(layer.out_features).double()
    input = torch.randn(5, layer.in_features)
    changed = ExportLinear.from_packed(layer, output=Affine(multiplier, offset))
    plain = ExportLinear.from_packed(layer)
    assert torch.equal(changed.operand, plain.operand)
    difference = changed(input) - (plain(input) * multiplier + offset)
    assert (difference.abs() <= changed.scale * 1.01 + 1e-6).all()


def test_what_is_applied_to_an_input_is_in_its_rounding(packed):
    layer = linear_layers(packed)[0]
    affine = Affine(torch.rand(layer.in_features) + 0.5, torch.randn(layer.in_features))
    input = torch.randn(5, layer.in_features)
    found = ExportLinear.from_packed(layer, input=affine)(input)
    torch.testing.assert_close(found, ExportLinear.from_packed(layer)(affine.apply(input)))


def test_the_steps_of_a_bias_are_as_fine_as_int8_allows(packed):
    for layer in linear_layers(packed):
        assert ExportLinear.from_packed(layer).operand.abs().max() > 63


def test_a_bias_that_is_huge_beside_its_weights_still_fits():
    operand = torch.tensor([[127, -127], [5, -90]], dtype=torch.int8)
    product = IntegerProduct(operand, torch.tensor([1e-15, 0.1]), torch.tensor([3.0, -2.0]))
    layer = ExportLinear(product, Rounding(8))
    codes = torch.tensor([[0.0, 255.0], [200.0, 100.0]])
    expected = codes @ (operand.float() * product.scale[:, None]).T + product.bias
    torch.testing.assert_close(layer(codes), expected, rtol=0, atol=0.06)
    assert layer.stored is None and layer.bias.abs().max() < 2**31 - 1


def test_an_exported_patch_embedding_is_the_packed_one(packed):
    layer = packed.get_submodule(describe(packed).stem)
    pixels = pixels_for(packed)[..., :14]  # the last columns fill no patch
    expected = layer(pixels)
    steps = sum(channel.scale for channel in ExportEmbedding(layer).channels)
    difference = (ExportEmbedding(layer)(pixels) - expected).abs().amax((0, 2, 3))
    assert (difference <= steps / 2 * 1.01 + 1e-5).all()


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-128, 127), (0, 15), (-4, 3), (-128, 120)])
def test_rounding_is_to_the_nearest_integer_within_bounds(low, high):
    values = torch.tensor([-1e4, -128.6, -5.2, -0.4, 0.4, 2.6, 14.9, 121.0, 260.0, 1e4])
    assert round_to_integers(values, low, high).tolist() == [min(max(round(v), low), high) for v in values.tolist()]
