# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
from conftest import make_model
from transformers import ConvNextConfig, UperNetConfig, UperNetForSemanticSegmentation

from optimum_mixq.architectures.describe import describe


def test_the_swin_inside_is_quantized_as_a_swin_and_each_stage_is_read():
    model = make_model("upernet")
    architecture, swin = describe(model), describe(make_model("swin"))
    assert architecture.taps == ("stages.0.blocks.1", "stages.1.blocks.0", "stages.2.blocks.0")
    first, plain = architecture.blocks[0], swin.blocks[0]
    assert [unit.name for unit in first.units] == [unit.name for unit in plain.units]
    assert (
        first.attention == f"backbone.{plain.attention}" and first.norms[0].norm == f"backbone.{plain.norms[0].norm}"
    )
    assert all(name.startswith(("decode_head.", "auxiliary_head.")) for name in architecture.left_float)


def test_another_backbone_than_a_swin_is_refused():
    backbone = ConvNextConfig(
        hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    heads = {"hidden_size": 8, "auxiliary_channels": 8, "auxiliary_in_channels": 8}
    model = UperNetForSemanticSegmentation(UperNetConfig(backbone_config=backbone, **heads))
    with pytest.raises(ValueError, match="Expected an UPerNet with a Swin inside, found one with a 'convnext'"):
        describe(model)
