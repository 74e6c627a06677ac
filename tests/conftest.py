# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Small random models of each family, for tests of structure and arithmetic. Accuracy is for trained ones."""

import interpret_triton  # noqa: F401


# isort: split
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    CLIPConfig,
    CLIPForImageClassification,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    DPTConfig,
    DPTForDepthEstimation,
    IJepaConfig,
    IJepaForImageClassification,
    PreTrainedModel,
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SiglipConfig,
    SiglipForImageClassification,
    SiglipVisionConfig,
    SiglipVisionModel,
    SwinConfig,
    SwinForImageClassification,
    Swinv2Config,
    Swinv2ForImageClassification,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    ViTMSNConfig,
    ViTMSNForImageClassification,
    YolosConfig,
    YolosForObjectDetection,
)

from optimum_mixq.architectures.describe import configured_image_size
from optimum_mixq.demo import demo_images_path


# Threads that share work this small wait for one another: many times as long where the cores are shared. The processes
# that tests start take the number from here.
torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))

# The one place that says where the suite's models and images are.
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

PLAIN = {
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "num_labels": 5,
}
SHALLOW = PLAIN | {"num_hidden_layers": 2}
# DINOv2 says how many times as wide as its blocks an MLP is.
SCALED = {name: value for name, value in SHALLOW.items() if name != "intermediate_size"} | {"mlp_ratio": 2}
# An image classifier has the vision tower of these two alone.
TOWERS = {
    "vision_config": {name: value for name, value in SHALLOW.items() if name != "num_labels"},
    "text_config": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8},
    "num_labels": 5,
}
# Four stages, as every published Swin has: maps of 16, 8, 4 and 2, and blocks that shift their windows in between.
WINDOWED = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [1, 2, 2, 1],
    "num_heads": [1, 2, 2, 4],
    "window_size": 2,
    "num_labels": 5,
}
# Of a Swin V2: one block shifts its windows, and in the next stage zeros are padded.
TWO_STAGES = WINDOWED | {"depths": [2, 1], "num_heads": [1, 2], "image_size": 20}


def build_vit() -> PreTrainedModel:
    return ViTForImageClassification(ViTConfig(**PLAIN))


def build_deit() -> PreTrainedModel:
    return DeiTForImageClassification(DeiTConfig(**PLAIN))


def build_deit_with_teacher() -> PreTrainedModel:
    return DeiTForImageClassificationWithTeacher(DeiTConfig(**PLAIN))


def build_swin() -> PreTrainedModel:
    return SwinForImageClassification(SwinConfig(**WINDOWED))


def build_padded_swin() -> PreTrainedModel:
    """Maps of 9, 5 and 3 in windows of 2: zeros are padded between LayerNorm and attention, and before merging."""
    return SwinForImageClassification(SwinConfig(**WINDOWED | {"image_size": 18}))


def build_vit_msn() -> PreTrainedModel:
    return ViTMSNForImageClassification(ViTMSNConfig(**SHALLOW))


def build_ijepa() -> PreTrainedModel:
    return IJepaForImageClassification(IJepaConfig(**SHALLOW))


def build_dinov2() -> PreTrainedModel:
    return Dinov2ForImageClassification(Dinov2Config(**SCALED))


def build_gated_dinov2() -> PreTrainedModel:
    """As the largest DINOv2 is."""
    return Dinov2ForImageClassification(Dinov2Config(**SCALED, use_swiglu_ffn=True))


def build_dinov2_with_registers() -> PreTrainedModel:
    return Dinov2WithRegistersForImageClassification(Dinov2WithRegistersConfig(**SCALED))


def build_dinov3() -> PreTrainedModel:
    """A class token and three registers are not rotated."""
    return DINOv3ViTModel(DINOv3ViTConfig(**SHALLOW, num_register_tokens=3))


def build_gated_dinov3() -> PreTrainedModel:
    """As the largest DINOv3 are."""
    return DINOv3ViTModel(DINOv3ViTConfig(**SHALLOW, num_register_tokens=3, use_gated_mlp=True, hidden_act="silu"))


def build_beit() -> PreTrainedModel:
    return BeitForImageClassification(
        BeitConfig(**SHALLOW, use_relative_position_bias=True, layer_scale_init_value=0.5)
    )


def build_clip() -> PreTrainedModel:
    return CLIPForImageClassification(CLIPConfig(**TOWERS))


def build_siglip() -> PreTrainedModel:
    return SiglipForImageClassification(SiglipConfig(**TOWERS))


def build_clip_vision() -> PreTrainedModel:
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**TOWERS["vision_config"], projection_dim=8))


def build_siglip_vision() -> PreTrainedModel:
    """With the head that pools patches."""
    return SiglipVisionModel(SiglipVisionConfig(**TOWERS["vision_config"]))


def build_swinv2() -> PreTrainedModel:
    """Maps of 10 and 5 in windows of 2: one block shifts them, and in the next stage zeros are padded."""
    return Swinv2ForImageClassification(Swinv2Config(**TWO_STAGES))


def build_yolos() -> PreTrainedModel:
    """With position embeddings between its blocks, on images that are no squares."""
    return YolosForObjectDetection(YolosConfig(**PLAIN | {"image_size": (16, 24)}, num_detection_tokens=6))


# Two stages: in the first one attention reduces its keys, and maps are 8 x 8 and 4 x 4.
REDUCED = {
    "image_size": 32,
    "num_encoder_blocks": 2,
    "depths": [1, 2],
    "sr_ratios": [2, 1],
    "hidden_sizes": [8, 16],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "num_attention_heads": [1, 2],
    "mlp_ratios": [2, 2],
    "decoder_hidden_size": 12,
    "num_labels": 5,
}


def build_segformer() -> PreTrainedModel:
    return SegformerForImageClassification(SegformerConfig(**REDUCED))


def build_segmenting_segformer() -> PreTrainedModel:
    return SegformerForSemanticSegmentation(SegformerConfig(**REDUCED))


# Two blocks are read, made maps of 8 x 8 and 4 x 4, and fused.
FUSED = {"neck_hidden_sizes": [6, 8], "reassemble_factors": [2, 1], "fusion_hidden_size": 8}


def build_dpt() -> PreTrainedModel:
    model = DPTForDepthEstimation(DPTConfig(**SHALLOW, **FUSED, backbone_out_indices=[0, 1]))
    return _see_something(model, model.head.head[-2])


def build_depth_anything() -> PreTrainedModel:
    backbone = Dinov2Config(
        **SCALED, out_features=["stage1", "stage2"], reshape_hidden_states=False, apply_layernorm=True
    )
    config = DepthAnythingConfig(
        backbone_config=backbone, patch_size=4, reassemble_hidden_size=24, head_hidden_size=6, **FUSED
    )
    model = DepthAnythingForDepthEstimation(config)
    return _see_something(model, model.head.conv3)


def _see_something(model: PreTrainedModel, last: torch.nn.Module) -> PreTrainedModel:
    """Keep the last convolution away from negative numbers, which depth is cut off at."""
    last.bias.data.fill_(2.0)
    return model


def build_upernet() -> PreTrainedModel:
    """Three stages of a Swin, the first of which shifts its windows, under a decode head and another for training.

    Maps are not pooled to 1 x 1: torch multiplies such a one in an order that depends on where weights lie in memory.
    """
    swin = SwinConfig(
        **WINDOWED | {"depths": [2, 1, 1], "num_heads": [1, 2, 2]}, out_features=["stage1", "stage2", "stage3"]
    )
    heads = {"hidden_size": 8, "auxiliary_channels": 8, "auxiliary_in_channels": 32, "pool_scales": [2, 4]}
    return UperNetForSemanticSegmentation(UperNetConfig(backbone_config=swin, num_labels=5, **heads))


BUILDERS: dict[str, Callable[[], PreTrainedModel]] = {
    "vit": build_vit,
    "deit": build_deit,
    "deit_with_teacher": build_deit_with_teacher,
    "swin": build_swin,
    "padded_swin": build_padded_swin,
    "vit_msn": build_vit_msn,
    "ijepa": build_ijepa,
    "dinov2": build_dinov2,
    "gated_dinov2": build_gated_dinov2,
    "dinov2_with_registers": build_dinov2_with_registers,
    "dinov3": build_dinov3,
    "gated_dinov3": build_gated_dinov3,
    "beit": build_beit,
    "clip": build_clip,
    "siglip": build_siglip,
    "clip_vision": build_clip_vision,
    "siglip_vision": build_siglip_vision,
    "swinv2": build_swinv2,
    "yolos": build_yolos,
    "dpt": build_dpt,
    "depth_anything": build_depth_anything,
    "segformer": build_segformer,
    "segmenting_segformer": build_segmenting_segformer,
    "upernet": build_upernet,
}


# Files that take longest come first: one that starts last keeps a process busy when the others are done.
LONGEST = (
    "test_cli.py", "test_gradients.py", "test_measure.py", "test_examples.py", "test_families.py", "test_upload.py",
    "test_blocks.py", "test_hf_quantizer.py", "test_loop.py", "test_readme.py", "test_quantizer.py",
    "test_variants.py", "test_demo.py", "test_killed.py", "test_export.py", "test_engines.py", "test_folder.py",
)  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest files first, and leave out what takes minutes, unless `-m` says what is wanted."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
    if config.getoption("-m"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]


@pytest.fixture(params=sorted(BUILDERS))
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return make_model(request.param)


@pytest.fixture
def device() -> torch.device:
    return DEVICE


@pytest.fixture
def vit() -> PreTrainedModel:
    return make_model("vit")


@pytest.fixture
def processor() -> ViTImageProcessorPil:
    return ViTImageProcessorPil(size={"height": 16, "width": 16})


def make_model(name: str) -> PreTrainedModel:
    """Return a random model of one of the builders."""
    return build_random(BUILDERS[name])


def build_random(build: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """Return a random model whose LayerNorms and biases are not the identity, so that folding them shows."""
    torch.manual_seed(0)
    model = build().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * (0.3 if parameter.ndim == 1 else 0.1))
    return model.to(DEVICE)


def random_pixels(model: PreTrainedModel, count: int = 4, seed: int = 2) -> torch.Tensor:
    size = configured_image_size(model)
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.fixture(scope="session")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like that of the shipped images, with 32 to calibrate on and 64 to evaluate on."""
    folder = tmp_path_factory.mktemp("images")
    for split, count in (("train", 32), ("test", 64)):
        table = pyarrow.parquet.read_table(demo_images_path() / f"{split}.parquet")
        pyarrow.parquet.write_table(table.slice(0, count), folder / f"{split}.parquet")
    return folder
