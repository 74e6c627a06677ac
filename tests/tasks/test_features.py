# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Models without a classifier go through every stage: what counts is the direction of their embeddings."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
import transformers
from conftest import BUILDERS, PLAIN, SCALED, TOWERS, TWO_STAGES, WINDOWED, build_random, make_model, random_pixels
from PIL import Image
from transformers import (
    AutoModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    DeiTConfig,
    DeiTModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    IJepaConfig,
    IJepaModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    SwinConfig,
    SwinModel,
    Swinv2Config,
    Swinv2Model,
    ViTConfig,
    ViTModel,
    ViTMSNConfig,
    ViTMSNModel,
    pipeline,
)

from optimum_mixq import MixQConfig, MixQQuantizer, MixQTrainingConfig, explain, measure_relevance
from optimum_mixq.architectures.backbones import describe_embedding
from optimum_mixq.images.batches import Batch
from optimum_mixq.stages.evaluation import measure_logits
from optimum_mixq.tasks import run_model, task_of
from optimum_mixq.tasks.features import Features
from optimum_mixq.tasks.loading import class_that_loads


BACKBONES = {
    "vit": lambda: ViTModel(ViTConfig(**PLAIN)),
    "vit without pooler": lambda: ViTModel(ViTConfig(**PLAIN), add_pooling_layer=False),
    "deit": lambda: DeiTModel(DeiTConfig(**PLAIN)),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**SCALED)),
    "dinov3": BUILDERS["dinov3"],
    "clip": lambda: CLIPVisionModel(CLIPVisionConfig(**TOWERS["vision_config"])),
    "clip with projection": BUILDERS["clip_vision"],
    "siglip": BUILDERS["siglip_vision"],
    "siglip without pooling": lambda: SiglipVisionModel(
        SiglipVisionConfig(**TOWERS["vision_config"], vision_use_head=False)
    ),
    "dinov2 with registers": lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SCALED)),
    "swinv2": lambda: Swinv2Model(Swinv2Config(**TWO_STAGES)),
    "vit_msn": lambda: ViTMSNModel(ViTMSNConfig(**PLAIN)),
    "ijepa": lambda: IJepaModel(IJepaConfig(**PLAIN)),
    "swin": lambda: SwinModel(SwinConfig(**WINDOWED)),
    "swin without pooler": lambda: SwinModel(SwinConfig(**WINDOWED), add_pooling_layer=False),
}
QUICK = MixQConfig(calibration_samples=4, sensitivity_samples=4, relevance_samples=4)


@pytest.fixture(params=sorted(BACKBONES))
def backbone(request):
    return build_random(BACKBONES[request.param])


@pytest.fixture
def vit_backbone():
    return build_random(BACKBONES["vit"])


def labelled(model, count, seed=3):
    return [(image, number % 2) for number, image in enumerate(random_pixels(model, count, seed))]


def embeddings(count=5, size=4, seed=0):
    return 3 * torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_distance(found, expected):
    """1 - cosine of two lists of numbers."""
    product = sum(a * b for a, b in zip(found, expected, strict=True))
    lengths = [math.sqrt(sum(a * a for a in values)) for values in (found, expected)]
    return 1 - product / (lengths[0] * lengths[1])


# What an embedding is worth.


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_embeddings_diverge_by_one_minus_their_cosine_at_any_temperature_and_length(temperature):
    found, reference = embeddings(), embeddings(seed=1)
    distances = Features().divergence(found, reference, temperature)
    assert distances.tolist() == pytest.approx(
        [slow_distance(a, b) for a, b in zip(found.tolist(), reference.tolist(), strict=True)]
    )
    torch.testing.assert_close(Features().divergence(7 * found, 0.1 * reference), distances)


def test_a_tiny_distance_is_not_lost_in_rounding():
    reference = embeddings(1, 64)
    moved = reference + 1e-7 * embeddings(1, 64, seed=1)
    assert float(Features().divergence(reference, reference)) == 0
    direction = F.normalize(reference)
    change = (moved - reference) / reference.norm()
    expected = (change - direction * (change * direction).sum()).square().sum() / 2
    assert float(Features().divergence(moved, reference)) == pytest.approx(float(expected), rel=1e-4)


def test_the_mean_of_probes_is_the_curvature_by_finite_differences():
    size, step = 4, 1e-4
    center = embeddings(1, size)

    def distance(*moves):
        moved = center.clone()
        for place, change in moves:
            moved[0, place] += change
        return slow_distance(moved[0].tolist(), center[0].tolist())

    curvature = torch.zeros(size, size, dtype=torch.float64)
    for row, column in itertools.product(range(size), repeat=2):
        corners = {(a, b): distance((row, a * step), (column, b * step)) for a in (1, -1) for b in (1, -1)}
        curvature[row, column] = sum(a * b * value for (a, b), value in corners.items()) / (4 * step**2)
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=size)), dtype=torch.float64)
    probes = Features().probe(center.expand(len(signs), size), signs)
    torch.testing.assert_close(probes.T @ probes / len(signs), curvature, atol=1e-6, rtol=1e-5)


def test_the_shares_of_the_squared_length_are_explained():
    rows = Features().explained(torch.tensor([[3.0, -4.0], [0.0, 2.0]]), None)
    torch.testing.assert_close(rows, torch.tensor([[0.36, 0.64], [0.0, 1.0]]))


def test_accuracy_is_that_of_the_nearest_other_image(monkeypatch):
    monkeypatch.setattr("optimum_mixq.tasks.features.COMPARED_IMAGES", 3)
    values = embeddings(10, 3)
    labels = torch.arange(10) % 3
    right = 0
    for image in range(10):
        others = [other for other in range(10) if other != image]
        nearest = min(others, key=lambda other: slow_distance(values[image].tolist(), values[other].tolist()))
        right += int(labels[nearest] == labels[image])
    assert Features().accuracy(values, labels) == pytest.approx(right / 10)
    assert Features().accuracy(values[:1], labels[:1]) is None


def test_an_embedding_is_told_by_its_length_and_a_label_by_its_number():
    names = {0: "cat", 1: "dog"}
    assert Features().describe(torch.tensor([3.0, 4.0]), names) == ["embedding of length 5"]
    assert Features().describe_label(torch.tensor(1), names) == "class 1"  # the names are not those of the source


def test_there_is_no_loss_against_labels():
    assert Features().targets(torch.tensor([0, 1]), 5).shape == (2, 0)
    message = r"Expected a task with a loss against labels, found feature extraction\. An embedding has no classes"
    with pytest.raises(ValueError, match=message):
        Features().loss(embeddings(), torch.empty(5, 0))


# Which numbers are the embedding.


def test_each_family_says_which_numbers_are_the_embedding(backbone):
    outputs = backbone(pixel_values=random_pixels(backbone))
    hidden = outputs.last_hidden_state
    found, words = run_model(backbone, random_pixels(backbone)), describe_embedding(backbone)
    if backbone.config.model_type in ("swin", "swinv2", "ijepa"):
        torch.testing.assert_close(found, hidden.mean(1))
        assert "the mean over" in words
    elif isinstance(backbone, (CLIPVisionModel, SiglipVisionModel, CLIPVisionModelWithProjection)):
        pooled = outputs.get("image_embeds", outputs.get("pooler_output"))
        assert torch.equal(found, hidden.mean(1) if pooled is None else pooled)
        assert "pooler_output" in words
    else:
        torch.testing.assert_close(found, hidden[:, 0])
        assert "the class token" in words
    assert type(task_of(backbone)) is Features


def test_a_classifier_with_the_same_blocks_keeps_its_task(vit):
    assert describe_embedding(vit) is None and type(task_of(vit)) is not Features
    assert type(task_of(vit.base_model)) is Features


# Through the stages.


def test_relevance_is_conserved_from_the_embedding_to_the_pixels(backbone):
    relevance = measure_relevance(backbone, [Batch(random_pixels(backbone), None, ())])
    assert relevance.conservation_error < 1e-4
    maps = explain(backbone, random_pixels(backbone))
    if backbone.config.model_type == "swin":  # in others, what reaches the class token is missing
        torch.testing.assert_close(maps.sum((1, 2)), torch.ones_like(maps[:, 0, 0]), atol=1e-3, rtol=0)


def test_a_packed_backbone_loads_again_to_the_same_embeddings(backbone, tmp_path):
    pixels = random_pixels(backbone, 12)
    packed = MixQQuantizer.from_pretrained(backbone).quantize(QUICK, pixels, tmp_path / "out", plan="uniform")
    loaded = getattr(transformers, class_that_loads(packed)).from_pretrained(tmp_path / "out").to(backbone.device)
    assert type(loaded) is type(backbone)
    outputs, expected = (model(pixel_values=pixels) for model in (loaded, packed))
    for name in expected:
        if expected[name] is not None:
            assert torch.equal(outputs[name], expected[name]), name
    assert torch.equal(run_model(loaded, pixels), run_model(packed, pixels))


def test_a_pooler_has_the_bits_of_a_head(vit_backbone, tmp_path):
    config = MixQConfig(calibration_samples=4, stem_and_head_bits=4, reconstruction="light")
    pixels = random_pixels(vit_backbone, 8)
    packed = MixQQuantizer.from_pretrained(vit_backbone).quantize(config, pixels, tmp_path / "out", plan="uniform")
    assert packed.pooler.dense.weight_bits == 4
    loaded = AutoModel.from_pretrained(tmp_path / "out").to(vit_backbone.device)
    assert torch.equal(loaded(pixel_values=pixels).pooler_output, packed(pixel_values=pixels).pooler_output)


def test_a_backbone_keeps_out_a_pooler_that_it_did_not_have(tmp_path):
    model = build_random(BACKBONES["vit without pooler"])
    MixQQuantizer.from_pretrained(model).quantize(QUICK, random_pixels(model, 8), tmp_path / "out", plan="uniform")
    loaded = AutoModel.from_pretrained(tmp_path / "out")
    assert loaded.pooler is None and not any("pooler" in name for name in loaded.state_dict())


@pytest.mark.parametrize("sensitivity", ["measured", "gradient"])
def test_bits_are_chosen_by_the_distance_of_embeddings(vit_backbone, sensitivity):
    quantizer = MixQQuantizer.from_pretrained(vit_backbone)
    config = MixQConfig(
        calibration_samples=4, sensitivity_samples=4, candidate_bits=(3, 4, 5), sensitivity=sensitivity
    )
    quantizer.quantize(config, random_pixels(vit_backbone, 12))
    assert len(set(quantizer.plan.bits.values())) > 1
    compared = quantizer.plan.provenance["compared"]
    assert all(0 < distance < 0.1 for distance in compared.values())
    images = labelled(vit_backbone, 10)
    found, reference = (
        measure_logits(model, [Batch(torch.stack([image for image, _ in images]), None, ())])[0].double()
        for model in (quantizer.quantized, vit_backbone)
    )
    scores = quantizer.evaluate(images, batch_size=4)["quantized"]
    assert scores.kl == pytest.approx(float((1 - F.cosine_similarity(found, reference)).mean()))
    assert scores.accuracy == pytest.approx(Features().accuracy(found, torch.arange(10) % 2))  # over all batches
    assert scores.agreement is None


def test_unlabelled_images_tell_the_distance_alone(vit_backbone):
    quantizer = MixQQuantizer.from_pretrained(vit_backbone)
    quantizer.quantize(QUICK, random_pixels(vit_backbone, 8), plan="uniform")
    scores = quantizer.evaluate(random_pixels(vit_backbone, 6, seed=5))["quantized"]
    assert scores.accuracy is None and 0 < scores.kl < 0.1


def test_training_brings_embeddings_nearer_to_the_float_models(vit_backbone):
    pixels, held = random_pixels(vit_backbone, 16), random_pixels(vit_backbone, 8, seed=9)
    quantizer = MixQQuantizer.from_pretrained(vit_backbone)
    config = MixQConfig(bits=2, calibration_samples=8)
    before = quantizer.quantize(config, pixels, plan="uniform")
    training = MixQTrainingConfig(epochs=4, batch_size=8, learning_rate=1e-3, step_learning_rate=1e-3, flip=False)
    after = quantizer.train(pixels, training, config, plan="uniform", evaluation=held)
    with torch.no_grad():
        reference = run_model(vit_backbone, held)
        distances = [Features().divergence(run_model(model, held), reference).mean() for model in (before, after)]
    assert distances[1] < distances[0]
    assert all(epoch.accuracy is None and epoch.kl > 0 for epoch in quantizer.history)


@pytest.mark.parametrize("name", ["vit", "clip", "siglip", "dinov3"])
def test_the_pipeline_of_transformers_extracts_features(name, processor, tmp_path):
    model = build_random(BACKBONES[name])
    quantizer = MixQQuantizer.from_pretrained(model, processor)
    packed = quantizer.quantize(QUICK, random_pixels(model, 8), tmp_path / "out", plan="uniform")
    picture = Image.new("RGB", (20, 20), (200, 30, 90))
    extract = pipeline("image-feature-extraction", model=str(tmp_path / "out"), device=model.device)
    pixels = processor(picture, return_tensors="pt")["pixel_values"].to(model.device)
    outputs = packed(pixel_values=pixels)
    torch.testing.assert_close(torch.tensor(extract(picture)), outputs.last_hidden_state.cpu())
    torch.testing.assert_close(torch.tensor(extract(picture, pool=True)), outputs.pooler_output.cpu())


def test_the_card_says_where_the_embedding_is_and_how_near_it_stays(vit_backbone, tmp_path):
    quantizer = MixQQuantizer.from_pretrained(vit_backbone)
    quantizer.quantize(MixQConfig(calibration_samples=4), random_pixels(vit_backbone, 8), plan="uniform")
    quantizer.evaluate(labelled(vit_backbone, 6))
    quantizer.save_pretrained(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    for line in (
        "pipeline_tag: image-feature-extraction",
        "- type: cosine_distance",
        "model = AutoModel.from_pretrained",
        "embedding is `outputs.last_hidden_state[:, 0]`, the class token",
        "| model | nearest-neighbour accuracy % | 95 % interval | cosine distance to float |",
        'from_pretrained("MODEL", task="image-feature-extraction")',
        "--task image-feature-extraction",
    ):
        assert line in card, line


def test_the_report_tells_distances_of_embeddings(vit_backbone, tmp_path):
    quantizer = MixQQuantizer.from_pretrained(vit_backbone)
    quantizer.quantize(QUICK, random_pixels(vit_backbone, 8), plan="uniform")
    report = quantizer.report(labelled(vit_backbone, 12), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "nearest-neighbour accuracy" in page and "same as float" not in page
    assert f"<dt>cosine distance to float</dt><dd>{report.disagreements[0].divergence:.3g}</dd>" in page
    assert len(report.heat_maps) == 4 and report.heat_maps[0].caption.startswith("embedding of length")


# What has no meaning without a classifier.


def test_labels_cannot_be_learned_from(vit_backbone):
    quantizer = MixQQuantizer.from_pretrained(vit_backbone)
    message = (
        r"Expected distillation=1 for the task 'image-feature-extraction', found 0\.5: there is no loss against its "
        r"labels here\. An embedding has no classes, and models learn from the float model alone\."
    )
    with pytest.raises(ValueError, match=message):
        quantizer.train(labelled(vit_backbone, 8), MixQTrainingConfig(distillation=0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sensitivity": "first-order"}, "a loss against labels for sensitivity='first-order', found 'image-f"),
        ({"sensitivity": "measured", "metric": "accuracy"}, "The metric 'accuracy' needs a loss against labels, and"),
        ({"sensitivity": "measured", "metric": "cross_entropy"}, "metric 'cross_entropy' needs a loss against labels"),
    ],
)
def test_what_needs_a_loss_or_predictions_is_refused(vit_backbone, options, message):
    quantizer = MixQQuantizer.from_pretrained(vit_backbone)
    config = MixQConfig(calibration_samples=4, sensitivity_samples=4, candidate_bits=(4, 5), **options)
    with pytest.raises(ValueError, match=message):
        quantizer.measure_sensitivity(labelled(vit_backbone, 8), config)


def test_the_model_itself_is_left_as_it_is(vit_backbone):
    before = copy.deepcopy(vit_backbone.state_dict())
    MixQQuantizer.from_pretrained(vit_backbone).quantize(QUICK, random_pixels(vit_backbone, 8), plan="uniform")
    assert all(torch.equal(value, before[name]) for name, value in vit_backbone.state_dict().items())


def test_bits_of_a_classifiers_backbone_are_measured_at_its_embedding_not_at_its_classes():
    vit = make_model("vit")
    pixels = [Batch(random_pixels(vit), None, ())]
    whole, backbone = measure_relevance(vit, pixels).scores, measure_relevance(vit.base_model, pixels).scores
    assert list(whole) == list(backbone) and whole != backbone
