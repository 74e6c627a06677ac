# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The task of a model that is loaded: what its checkpoint's class says, or what is asked for."""

import pytest
import torch
from conftest import PLAIN, TOWERS, build_random, make_model, random_pixels
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    CLIPConfig,
    CLIPModel,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    SegformerModel,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTModel,
)

from optimum_mixq import MixQConfig, MixQQuantizer
from optimum_mixq.tasks import run_model, task_of
from optimum_mixq.tasks.features import Features
from optimum_mixq.tasks.loading import class_that_loads, load_model
from optimum_mixq.tasks.single_label import SingleLabel


FEATURES, CLASSES = "image-feature-extraction", "image-classification"
SEGMENTATION = "image-segmentation"
QUICK = MixQConfig(calibration_samples=4)


@pytest.fixture
def saved(vit, tmp_path):
    """A checkpoint of a classifier, and one of a model without."""
    vit.save_pretrained(tmp_path / "classifier")
    ViTModel(vit.config).save_pretrained(tmp_path / "backbone")
    return tmp_path


def test_the_class_of_a_checkpoint_tells_the_task(saved):
    classifier, backbone = load_model(saved / "classifier"), load_model(saved / "backbone")
    assert (type(classifier), type(backbone)) == (ViTForImageClassification, ViTModel)
    assert (type(task_of(classifier)), type(task_of(backbone))) == (SingleLabel, Features)


def test_a_classifier_is_loaded_without_its_head_when_features_are_asked_for(saved, vit):
    quantizer = MixQQuantizer.from_pretrained(saved / "classifier", task=FEATURES, device=vit.device)
    pixels = random_pixels(vit)
    assert type(quantizer.model) is ViTModel
    torch.testing.assert_close(run_model(quantizer.model, pixels), run_model(vit.base_model, pixels))
    assert type(MixQQuantizer.from_pretrained(saved / "classifier", task=CLASSES).model) is ViTForImageClassification


def test_a_pooler_that_a_checkpoint_lacks_is_taken_out_and_its_own_is_kept(saved, caplog):
    assert load_model(saved / "classifier", FEATURES).pooler is None
    assert "classifier has no pooler: that part was left out of the model." in caplog.text
    caplog.clear()
    assert load_model(saved / "backbone").pooler is not None
    assert "has no pooler" not in caplog.text


def test_a_packed_backbone_of_a_classifier_is_reopened_with_its_float_model(saved, vit):
    quantizer = MixQQuantizer.from_pretrained(saved / "classifier", task=FEATURES)
    quantizer.quantize(QUICK, random_pixels(vit, 8), saved / "packed", plan="uniform")
    reopened = MixQQuantizer.reopen(saved / "packed", saved / "classifier")
    assert type(reopened.model) is ViTModel and reopened.model.pooler is None
    assert reopened.evaluate(random_pixels(vit, 6, seed=5))["quantized"].kl > 0


def test_a_classifier_in_memory_gives_what_stands_under_its_head(vit):
    assert MixQQuantizer.from_pretrained(vit, task=FEATURES).model is vit.base_model
    assert MixQQuantizer.from_pretrained(vit, task=CLASSES).model is vit
    backbone = vit.base_model
    assert MixQQuantizer.from_pretrained(backbone, task=FEATURES).model is backbone


def test_a_backbone_has_no_head_to_classify_with(vit):
    message = (
        "Expected an image classifier for task='image-classification', found a ViTModel, which has no head. Leave "
        "task= out, or load a classifier with AutoModelForImageClassification"
    )
    with pytest.raises(ValueError, match=message):
        MixQQuantizer.from_pretrained(vit.base_model, task=CLASSES)


def test_a_checkpoint_without_a_head_is_no_classifier(saved, vit):
    ViTForMaskedImageModeling(vit.config).save_pretrained(saved / "other")
    for name, options in {"other": {}, "backbone": {"task": CLASSES}}.items():
        message = (
            f"Expected the checkpoint of an image classifier, found one without classifier.bias in .*{name}: the head "
            "would be random. Fine-tune it first, or load it for its embeddings with task='image-feature-ext"
        )
        with pytest.raises(ValueError, match=message):
            MixQQuantizer.from_pretrained(saved / name, **options)
    assert type(MixQQuantizer.from_pretrained(saved / "other", task=FEATURES).model) is ViTModel


def test_an_unknown_task_is_refused_with_those_that_are_known(saved, vit):
    for model in (saved / "backbone", vit):
        message = "Expected task to be .*'image-classification'.* 'image-feature-extraction'.*, found 'features'"
        with pytest.raises(ValueError, match=message):
            MixQQuantizer.from_pretrained(model, task="features")


def test_a_packed_checkpoint_is_refused_by_the_class_of_the_other_task(tmp_path):
    for name, model in {"classifier": make_model("vit"), "backbone": build_random(lambda: ViTModel(small()))}.items():
        MixQQuantizer.from_pretrained(model).quantize(QUICK, random_pixels(model, 8), tmp_path / name, plan="uniform")
    with pytest.raises(
        ValueError, match="is that of a ViTForImageClassification, and ViTModel was to take it: load i"
    ):
        AutoModel.from_pretrained(tmp_path / "classifier")
    message = "is that of a ViTModel, and ViTForImageClassification was to take it: load it with AutoModel. For anoth"
    with pytest.raises(ValueError, match=message):
        AutoModelForImageClassification.from_pretrained(tmp_path / "backbone")


def test_the_encoder_of_a_masked_autoencoder_is_loaded_as_a_vit_that_sees_all_patches(tmp_path):
    sizes = {name: value for name, value in PLAIN.items() if name != "num_labels"}
    config = ViTMAEConfig(**sizes, mask_ratio=0.0)
    config.decoder_hidden_size, config.decoder_num_attention_heads, config.decoder_num_hidden_layers = 8, 1, 1
    whole = build_random(lambda: ViTMAEForPreTraining(config))
    whole.save_pretrained(tmp_path / "mae")
    quantizer = MixQQuantizer.from_pretrained(tmp_path / "mae", device=whole.device)
    pixels = random_pixels(quantizer.model, 8)
    assert type(quantizer.model) is ViTModel and quantizer.model.pooler is None
    torch.testing.assert_close(run_model(quantizer.model, pixels), whole.vit(pixels).last_hidden_state[:, 0])
    packed = quantizer.quantize(QUICK, pixels, tmp_path / "packed", plan="uniform")
    loaded = AutoModel.from_pretrained(tmp_path / "packed").to(whole.device)
    assert type(loaded) is ViTModel and torch.equal(run_model(loaded, pixels), run_model(packed, pixels))
    assert type(MixQQuantizer.reopen(tmp_path / "packed", tmp_path / "mae").model) is ViTModel
    with pytest.raises(ValueError, match=r"found 'vit_mae' \(ViTMAEModel\): it hides .* Load the checkpoint with Vi"):
        MixQQuantizer.from_pretrained(whole.vit)


@pytest.fixture
def clip(tmp_path):
    """A checkpoint with a text tower beside the vision tower."""
    towers = TOWERS | {"vision_config": TOWERS["vision_config"] | {"projection_dim": 8}, "projection_dim": 8}
    model = build_random(lambda: CLIPModel(CLIPConfig(**towers)))
    model.save_pretrained(tmp_path / "clip")
    return model, tmp_path / "clip"


def test_of_several_towers_the_one_for_images_is_taken_for_its_embeddings(clip, vit):
    whole, folder = clip
    quantizer = MixQQuantizer.from_pretrained(folder, task=FEATURES, device=vit.device)
    assert type(quantizer.model) is CLIPVisionModelWithProjection
    pixels = random_pixels(vit)
    assert torch.equal(run_model(quantizer.model, pixels), whole.get_image_features(pixels).pooler_output)
    classifier = make_model("siglip")
    assert MixQQuantizer.from_pretrained(classifier, task=FEATURES).model is classifier.vision_model


def test_a_projection_that_a_checkpoint_lacks_is_not_made_up(tmp_path):
    make_model("clip").save_pretrained(tmp_path / "classifier")
    message = (
        "Expected a checkpoint with visual_projection.weight, found none in .*classifier: it would be random. Load it "
        "with a class without it, such as CLIPVisionModel, and pass the model itself"
    )
    with pytest.raises(ValueError, match=message):
        MixQQuantizer.from_pretrained(tmp_path / "classifier", task=FEATURES)


def test_a_model_with_several_towers_is_refused_with_the_class_to_load(clip):
    whole, folder = clip
    message = (
        r"Expected an image classifier \(CLIPForImageClassification, or a subclass\), found CLIPModel\. Load the "
        "checkpoint with AutoModelForImageClassification, or with CLIPVisionModelWithProjection for the embeddings of"
    )
    with pytest.raises(ValueError, match=message):
        MixQQuantizer.from_pretrained(whole)
    with pytest.raises(ValueError, match="found one without classifier.bias in .* load it for its embeddings with ta"):
        MixQQuantizer.from_pretrained(folder)


@pytest.mark.parametrize("tower", [CLIPVisionModel, CLIPVisionModelWithProjection])
def test_a_packed_tower_is_reopened_with_the_checkpoint_that_it_is_of(clip, tower, tmp_path):
    _, folder = clip
    model = tower.from_pretrained(folder)
    pixels = random_pixels(model, 8)
    packed = MixQQuantizer.from_pretrained(model).quantize(QUICK, pixels, tmp_path / "packed", plan="uniform")
    reopened = MixQQuantizer.reopen(tmp_path / "packed", folder)
    assert type(reopened.model) is type(reopened.quantized) is tower
    assert torch.equal(run_model(reopened.quantized, pixels), run_model(packed, pixels))
    reopened.quantized.save_pretrained(tmp_path / "again")
    assert torch.equal(run_model(tower.from_pretrained(tmp_path / "again"), pixels), run_model(packed, pixels))
    assert class_that_loads(packed) == ("AutoModel" if tower is CLIPVisionModel else tower.__name__)


def test_a_packed_projection_is_not_lost_to_the_class_without_one(tmp_path):
    model = make_model("clip_vision")
    MixQQuantizer.from_pretrained(model).quantize(QUICK, random_pixels(model, 8), tmp_path / "out", plan="uniform")
    message = "of a CLIPVisionModelWithProjection, and CLIPVisionModel was to take it: load it with CLIPVisionModelW"
    with pytest.raises(ValueError, match=message):
        AutoModel.from_pretrained(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "model = CLIPVisionModelWithProjection.from_pretrained" in card
    assert 'pipeline("image-feature-extraction", model=model, image_processor="' in card


class OwnBackbone(ViTModel):
    """A subclass that changes nothing of the structure."""


def test_a_subclass_of_a_backbone_is_as_good_as_the_backbone(tmp_path):
    model = build_random(lambda: OwnBackbone(small()))
    packed = MixQQuantizer.from_pretrained(model).quantize(
        QUICK, random_pixels(model, 8), tmp_path / "out", plan="uniform"
    )
    loaded = OwnBackbone.from_pretrained(tmp_path / "out").to(model.device)
    assert torch.equal(run_model(loaded, random_pixels(model)), run_model(packed, random_pixels(model)))


def small():
    return ViTConfig(**make_model("vit").config.to_diff_dict())


def test_a_classifier_has_no_decode_head_for_segmentation(tmp_path):
    classifier = make_model("segformer")
    classifier.save_pretrained(tmp_path / "classifier")
    with pytest.raises(ValueError, match="the checkpoint of a model for image-segmentation, found one without decode"):
        load_model(tmp_path / "classifier", SEGMENTATION)
    with pytest.raises(ValueError, match="Expected a model for task='image-segmentation', found a Segformer"):
        MixQQuantizer.from_pretrained(classifier, task=SEGMENTATION)


def test_a_segmenter_is_loaded_whole_or_for_its_embeddings_and_packed_as_what_it_is(tmp_path):
    model = make_model("segmenting_segformer")
    model.save_pretrained(tmp_path / "float")
    assert type(load_model(tmp_path / "float")) is type(model)
    assert type(load_model(tmp_path / "float", FEATURES)) is SegformerModel
    MixQQuantizer(model, None).quantize(QUICK, random_pixels(model, 8), tmp_path / "packed", plan="uniform")
    with pytest.raises(ValueError, match="load it with AutoModelForSemanticSegmentation"):
        AutoModel.from_pretrained(tmp_path / "packed")
