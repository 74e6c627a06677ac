# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from conftest import BUILDERS, TOWERS, WINDOWED, make_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForVideoClassification,
    BeitConfig,
    BeitForImageClassification,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPForImageClassification,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    DINOv3ViTBackbone,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    DPTConfig,
    DPTForDepthEstimation,
    IJepaConfig,
    IJepaForImageClassification,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipConfig,
    SiglipForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    Swinv2Config,
    Swinv2ForImageClassification,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    VideoMAEConfig,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTModel,
    ViTMSNConfig,
    ViTMSNForImageClassification,
    YolosConfig,
    YolosForObjectDetection,
)

from optimum_mixq import BitPlan, MixQConfig, MixQQuantizer
from optimum_mixq.architectures.describe import describe, expected_image_size, require_image_size
from optimum_mixq.stages.calibration.blocks import calibrate


FULL_SIZE = {
    "vit-base": lambda: ViTForImageClassification(ViTConfig()),
    "vit-large": lambda: ViTForImageClassification(
        ViTConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    ),
    "deit-base-distilled": lambda: DeiTForImageClassificationWithTeacher(DeiTConfig()),
    "vit-msn-base": lambda: ViTMSNForImageClassification(ViTMSNConfig()),
    "ijepa-huge-14": lambda: IJepaForImageClassification(
        IJepaConfig(
            hidden_size=1280, num_hidden_layers=32, num_attention_heads=16, intermediate_size=5120, patch_size=14
        )
    ),
    "dinov2-base": lambda: Dinov2ForImageClassification(Dinov2Config(image_size=518, patch_size=14)),
    "dinov2-giant": lambda: Dinov2ForImageClassification(
        Dinov2Config(
            hidden_size=1536,
            num_hidden_layers=40,
            num_attention_heads=24,
            image_size=518,
            patch_size=14,
            use_swiglu_ffn=True,
        )
    ),
    "dinov2-with-registers-base": lambda: Dinov2WithRegistersForImageClassification(
        Dinov2WithRegistersConfig(image_size=518, patch_size=14)
    ),
    "dinov3-vits16": lambda: DINOv3ViTModel(DINOv3ViTConfig(num_register_tokens=4)),
    "dinov3-vit7b16": lambda: DINOv3ViTModel(
        DINOv3ViTConfig(
            hidden_size=4096,
            num_hidden_layers=40,
            num_attention_heads=32,
            intermediate_size=8192,
            num_register_tokens=4,
            use_gated_mlp=True,
            hidden_act="silu",
            query_bias=False,
            value_bias=False,
        )
    ),
    "beit-base": lambda: BeitForImageClassification(BeitConfig(use_relative_position_bias=True)),
    "clip-vit-base-patch16": lambda: CLIPForImageClassification(CLIPConfig(vision_config={"patch_size": 16})),
    "siglip-base": lambda: SiglipForImageClassification(SiglipConfig()),
    "siglip-base-without-its-head": lambda: SiglipForImageClassification(
        SiglipConfig(vision_config={"vision_use_head": False})
    ),
    "swinv2-tiny-window8-256": lambda: Swinv2ForImageClassification(Swinv2Config(image_size=256, window_size=8)),
    "dpt-large": lambda: DPTForDepthEstimation(
        DPTConfig(
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=4096,
            backbone_out_indices=[5, 11, 17, 23],
            neck_hidden_sizes=[256, 512, 1024, 1024],
        )
    ),
    "depth-anything-v2-small": lambda: DepthAnythingForDepthEstimation(
        DepthAnythingConfig(
            backbone_config=Dinov2Config(
                hidden_size=384,
                num_attention_heads=6,
                image_size=518,
                patch_size=14,
                out_indices=[3, 6, 9, 12],
                reshape_hidden_states=False,
            ),
            reassemble_hidden_size=384,
            neck_hidden_sizes=[48, 96, 192, 384],
            fusion_hidden_size=64,
        )
    ),
    "yolos-base": lambda: YolosForObjectDetection(YolosConfig(image_size=(800, 1344))),
    "yolos-tiny": lambda: YolosForObjectDetection(
        YolosConfig(
            hidden_size=192,
            intermediate_size=768,
            num_attention_heads=3,
            image_size=(800, 1333),
            use_mid_position_embeddings=False,
        )
    ),
    "segformer-b0": lambda: SegformerForSemanticSegmentation(SegformerConfig(num_labels=150)),
    "segformer-b5": lambda: SegformerForSemanticSegmentation(
        SegformerConfig(depths=[3, 6, 40, 3], hidden_sizes=[64, 128, 320, 512], decoder_hidden_size=768)
    ),
    "upernet-swin-tiny": lambda: UperNetForSemanticSegmentation(
        UperNetConfig(
            backbone_config=SwinConfig(out_features=["stage1", "stage2", "stage3", "stage4"]), num_labels=150
        )
    ),
    "swin-tiny": lambda: SwinForImageClassification(SwinConfig()),
    "swin-small": lambda: SwinForImageClassification(SwinConfig(depths=[2, 2, 18, 2])),
}


@pytest.mark.parametrize("build", [*BUILDERS.values(), *FULL_SIZE.values()], ids=[*BUILDERS, *FULL_SIZE])
def test_every_linear_and_convolution_has_exactly_one_place(build):
    with torch.device("meta"):
        model = build()
    architecture = describe(model)
    stem = [] if architecture.stem is None else [architecture.stem]
    places = [*stem, *architecture.heads, *architecture.left_float]
    places += [module for unit in architecture.units for module in unit.modules]
    layers = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    assert sorted(places) == sorted(layers)


def test_a_block_hands_out_its_units_by_kind(vit):
    block = describe(vit).blocks[1]
    assert block.unit("qk").name == "blocks.1.qk" and block.unit("fc2") is block.units[-1]
    with pytest.raises(ValueError, match=r"'blocks.1' has no unit 'reduction': it has qkv, qk, av, proj, fc1, fc2\."):
        block.unit("reduction")


def test_units_of_a_vit_come_in_forward_order(vit):
    names = [unit.name for unit in describe(vit).units]
    kinds = ("qkv", "qk", "av", "proj", "fc1", "fc2")
    assert names == [f"blocks.{block}.{kind}" for block in range(3) for kind in kinds]


def test_merging_of_a_swin_stands_between_its_stages():
    names = [block.name for block in describe(BUILDERS["swin"]()).blocks]
    assert names == [
        "stages.0.blocks.0",
        "stages.0.merging",
        "stages.1.blocks.0",
        "stages.1.blocks.1",
        "stages.1.merging",
        "stages.2.blocks.0",
        "stages.2.blocks.1",
        "stages.2.merging",
        "stages.3.blocks.0",
    ]


def test_a_window_larger_than_a_map_is_refused_with_what_to_do():
    swin = SwinForImageClassification(SwinConfig(**WINDOWED))  # maps of 16, 8, 4 and 2 at 32 pixels, windows of 2
    require_image_size(swin, (32, 32))
    require_image_size(swin, (18, 64))
    message = "no smaller than the model's window of 2, found 16 x 32 pixels: the last stage's map is 1 x 2"
    with pytest.raises(ValueError, match=message):
        require_image_size(swin, (16, 32))
    with pytest.raises(ValueError, match="found 16 x 16 pixels"):
        calibrate(swin, BitPlan.uniform(swin, 4), [torch.zeros(1, 3, 16, 16)], MixQConfig())


def test_blocks_run_in_the_order_in_which_they_are_described(model):
    from conftest import random_pixels

    calls = []
    blocks = describe(model).blocks
    for block in blocks:
        model.get_submodule(block.module).register_forward_hook(lambda *_, name=block.name: calls.append(name))
    model(pixel_values=random_pixels(model))
    assert calls == [block.name for block in blocks]


def test_readers_see_exactly_what_their_norm_puts_out_up_to_windows_and_padding(model):
    from conftest import random_pixels

    seen = {}
    norms = describe(model).norms
    modules = dict(model.named_modules())
    for entry in norms:
        modules[entry.norm].register_forward_hook(lambda _m, _i, out, name=entry.norm: seen.update({name: out}))
        for reader in entry.readers:
            modules[reader].register_forward_pre_hook(lambda _m, args, name=reader: seen.update({name: args[0]}))
    model(pixel_values=random_pixels(model))
    for entry in norms:
        written = seen[entry.norm].flatten(0, -2)
        for reader in entry.readers:
            read = seen[reader].flatten(0, -2)
            padding = len(read) - len(written)
            assert (padding == 0) or not entry.shift_foldable
            rows = read[read.abs().sum(-1) > 0] if padding else read
            torch.testing.assert_close(rows.sum(0), written.sum(0), rtol=1e-4, atol=1e-3)


def test_shift_is_foldable_unless_windows_are_padded():
    folds = {name: all(norm.shift_foldable for norm in describe(build()).norms) for name, build in BUILDERS.items()}
    assert [name for name, foldable in folds.items() if not foldable] == ["padded_swin"]


def test_an_unknown_model_type_is_refused_with_the_supported_ones():
    bert = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8))
    with pytest.raises(
        ValueError,
        match=r"Expected a model of type .* vit_msn, .*found 'bert' \(BertModel\)\. Other families are not",
    ):
        describe(bert)


def test_a_class_without_classifier_or_embeddings_is_refused_with_the_classes_to_load(vit):
    message = (
        r"Expected an image classifier \(ViTForImageClassification, or a subclass\) or a model without a classifier "
        r"\(ViTModel, or a subclass\), found ViTForMaskedImageModeling\. Load the checkpoint with "
        "AutoModelForImageClassification, or with AutoModel for its embeddings"
    )
    with pytest.raises(ValueError, match=message):
        describe(ViTForMaskedImageModeling(vit.config))


def test_a_siglip_that_takes_patches_is_refused_with_the_one_that_takes_images():
    sizes = {name: value for name, value in TOWERS["vision_config"].items() if name != "image_size"}
    model = Siglip2VisionModel(Siglip2VisionConfig(**sizes, num_patches=16))
    message = (
        r"Expected a model of a supported type, found 'siglip2_vision_model' \(Siglip2VisionModel\): it takes images "
        "that its processor has cut into patches, .* Checkpoints of SigLIP 2 for one resolution are of type 'siglip': "
    )
    with pytest.raises(ValueError, match=message):
        MixQQuantizer.from_pretrained(model)


@pytest.mark.parametrize("model_type", ["timesformer", "videomae", "vivit", "vjepa2"])
def test_a_model_of_videos_is_refused_with_the_reason(model_type):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    small = {"image_size": 32, "num_frames": 2, "pred_hidden_size": 32, "pred_num_attention_heads": 2}
    model = AutoModelForVideoClassification.from_config(AutoConfig.for_model(model_type, **sizes, **small))
    message = (
        f"Expected a model of a supported type, found '{model_type}' .*: it takes videos, several frames "
        r"\(B, frames, C, H, W\) at once, and .* single images \(B, C, H, W\)\. Use a model for images"
    )
    with pytest.raises(ValueError, match=message):
        MixQQuantizer.from_pretrained(model)


def test_a_checkpoint_of_a_model_of_videos_is_refused_before_it_is_loaded(tmp_path):
    VideoMAEConfig(architectures=["VideoMAEForVideoClassification"]).save_pretrained(tmp_path)  # and no weights
    with pytest.raises(ValueError, match=r"found 'videomae' \(VideoMAEForVideoClassification\): it takes videos"):
        MixQQuantizer.from_pretrained(tmp_path)


def test_a_family_without_a_classifier_names_its_other_class_alone():
    message = (
        r"^Expected a model without a classifier \(DINOv3ViTModel, or a subclass\), found DINOv3ViTBackbone\. Load "
        r"the checkpoint with AutoModel for its embeddings\.$"
    )
    with pytest.raises(ValueError, match=message):
        describe(DINOv3ViTBackbone(make_model("dinov3").config))


@pytest.mark.parametrize("pooling", [True, False])
def test_a_backbone_has_the_blocks_of_its_classifier_and_its_pooler_for_a_head(vit, pooling):
    found, whole = describe(ViTModel(vit.config, add_pooling_layer=pooling)), describe(vit)
    assert found.units[0].modules[0] == whole.units[0].modules[0].removeprefix("vit.")
    assert [unit.name for unit in found.units] == [unit.name for unit in whole.units]
    assert found.heads == (("pooler.dense",) if pooling else ())


class OwnClassifier(ViTForImageClassification):
    """A subclass that changes nothing of the structure."""


def test_a_subclass_of_a_classifier_is_as_good_as_the_classifier(vit):
    assert describe(OwnClassifier(vit.config)) == describe(vit)


class PeftModel(nn.Module):
    """What peft's classes are called, around a model."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config


def test_wrapped_models_are_refused_with_the_way_to_the_plain_one(vit):
    with pytest.raises(ValueError, match=r"found a PeftModel with adapters: pass model\.merge_and_unload\(\)"):
        MixQQuantizer.from_pretrained(PeftModel(vit))
    compiled = torch.compile(vit)
    with pytest.raises(ValueError, match=r"what torch\.compile made of it: pass model\._orig_mod"):
        MixQQuantizer.from_pretrained(compiled)
    MixQQuantizer.from_pretrained(compiled._orig_mod)
    vit._hf_peft_config_loaded = True  # as model.add_adapter of transformers 5.9 to 5.23 leaves it
    with pytest.raises(ValueError, match="found a ViTForImageClassification with adapters. Save them with"):
        MixQQuantizer.from_pretrained(vit)


def test_a_layer_without_a_place_is_named(vit):
    vit.adapter = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"layers without a place \['adapter'\]"):
        describe(vit)


def test_some_take_any_image_size_and_the_others_one():
    sizes = {name: expected_image_size(build()) for name, build in BUILDERS.items()}
    any_size = {"swin", "padded_swin", "swinv2", "beit", "dinov2", "gated_dinov2", "dinov2_with_registers"}
    any_size |= {"segformer", "segmenting_segformer", "upernet", "yolos", "dpt", "depth_anything"}
    any_size |= {"dinov3", "gated_dinov3"}
    assert {name for name, size in sizes.items() if size is None} == any_size
    assert {sizes[name] for name in sizes.keys() - any_size} == {(16, 16)}
