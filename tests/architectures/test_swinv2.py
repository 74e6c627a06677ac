# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from conftest import make_model

from optimum_mixq.architectures.attention import routed_attention
from optimum_mixq.architectures.describe import describe
from optimum_mixq.architectures.families.swinv2_attention import RoutedSwinv2SelfAttention
from optimum_mixq.architectures.watching import WATCHED, WATCHED_ATTENTION, _Watched, attend


@pytest.mark.parametrize("size", [20, 26])
def test_its_routed_attention_gives_what_its_own_does_in_shifted_and_padded_windows(size):
    model = make_model("swinv2").double()
    pixels = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0)).to(model.device).double()
    with torch.no_grad():
        expected = model(pixel_values=pixels).logits
        with routed_attention(model, WATCHED_ATTENTION):
            for block in describe(model).blocks:
                if block.attention is not None:
                    module = model.get_submodule(block.attention)
                    assert type(module) is RoutedSwinv2SelfAttention
                    setattr(module, WATCHED, _Watched(block, attend_plainly, None))
            torch.testing.assert_close(model(pixel_values=pixels).logits, expected)


def attend_plainly(query, key, value, mask, scaling, watch=None):
    return attend(query, key, value, mask, scaling)


def test_its_position_biases_are_left_float():
    architecture = describe(make_model("swinv2"))
    assert len(architecture.left_float) == 2 * 3 and not architecture.norms
    assert all("continuous_position_bias_mlp" in name for name in architecture.left_float)
