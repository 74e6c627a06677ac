# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from exported_models import pack, pixels_for
from torch import nn

from optimum_mixq.architectures.describe import describe
from optimum_mixq.export.conversion import convert, integer_products
from optimum_mixq.export.layers import ExportLinear
from optimum_mixq.quant import attention as packed_attention
from optimum_mixq.quant.packed import PackedLinear
from optimum_mixq.tasks import run_model


@torch.no_grad()
def logits(model, pixels):
    return run_model(model, pixels)


@pytest.mark.parametrize("arithmetic", ["column", "folded"])
@pytest.mark.parametrize("name", ["vit", "shallow_deit_with_teacher", "shallow_swin"])
def test_a_converted_model_is_the_packed_one_up_to_single_codes(name, arithmetic, monkeypatch):
    monkeypatch.setattr(packed_attention, "CPU_MULTIPLIES_BFLOAT16", False)
    packed = pack(name, 8, arithmetic)
    pixels, before = pixels_for(packed), {key: value.clone() for key, value in packed.state_dict().items()}
    converted = convert(packed, "logarithmic")
    expected = logits(packed, pixels)
    assert (logits(converted, pixels) - expected).abs().max() < 0.1 * expected.std()
    assert all(torch.equal(value, before[key]) for key, value in packed.state_dict().items())
    assert not any(isinstance(module, PackedLinear) for module in converted.modules())
    architecture = describe(packed)
    layers = len(architecture.unit_of_module) + len(architecture.heads)
    assert integer_products(converted) == layers + 3  # the patch embedding has one for each channel


def test_layernorms_put_out_codes_for_their_readers():
    packed = pack("vit")
    converted = convert(packed, "integer")
    for norm in describe(packed).norms:
        readers = [converted.get_submodule(name) for name in norm.readers]
        assert all(isinstance(layer, ExportLinear) and layer.rounding.multiplier is None for layer in readers)


def test_a_layernorm_before_padding_is_left_alone():
    packed = pack("shallow_swin")
    converted = convert(packed, "integer")
    padded = [norm for norm in describe(packed).norms if not norm.shift_foldable]
    assert padded
    for norm in padded:
        own, left = packed.get_submodule(norm.norm), converted.get_submodule(norm.norm)
        assert torch.equal(own.weight, left.weight) and type(left) is nn.LayerNorm
        assert converted.get_submodule(norm.readers[0]).rounding.multiplier is not None


def test_readers_with_grids_of_their_own_round_for_themselves():
    packed = pack("vit")
    name = describe(packed).norms[0].readers[1]
    packed.get_submodule(name).mixq_input_zero_point.add_(1)
    converted = convert(packed, "integer")
    assert converted.get_submodule(name).rounding.multiplier is not None
    assert convert(pack("vit"), "integer").get_submodule(name).rounding.multiplier is None


def test_a_bfloat16_model_is_converted_in_float32():
    packed = pack("shallow_vit").to(torch.bfloat16)
    converted = convert(packed, "integer")
    assert {parameter.dtype for parameter in converted.parameters()} == {torch.float32}
    assert packed.dtype == torch.bfloat16
