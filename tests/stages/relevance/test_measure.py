# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from conftest import BUILDERS, make_model, random_pixels
from torch import nn

from optimum_mixq.architectures.describe import describe
from optimum_mixq.artifacts import LayerRelevance
from optimum_mixq.images.batches import Batch
from optimum_mixq.stages.relevance.measure import explain, measure_relevance
from optimum_mixq.stages.relevance.scores import score_names


def batches_of(model, images=6, size=None, dtype=torch.float32, labels=None, seed=3):
    pixels = random_pixels(model, images, seed=seed).to(dtype)
    if labels is not None:
        labels = torch.tensor(labels)
    rows = range(0, images, size or images)
    step = size or images
    return [Batch(pixels[i : i + step], None if labels is None else labels[i : i + step], ()) for i in rows]


@pytest.mark.parametrize("name", sorted(BUILDERS))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_relevance_is_conserved_down_to_the_first_block(name, dtype, tolerance):
    model = make_model(name).to(dtype)
    result = measure_relevance(model, batches_of(model, dtype=dtype))
    assert result.conservation_error < tolerance
    assert list(result.scores) == [unit.name for unit in describe(model).units]
    assert sum(result.scores.values()) == pytest.approx(1)
    assert min(result.scores.values()) > 0


# Scores sum the same relevance, each in its own way.
@pytest.mark.parametrize(
    ("name", "score"),
    [
        *((name, "gradient") for name in sorted(BUILDERS)),
        *((name, score) for name in ("vit", "swin", "upernet") for score in score_names() if score != "gradient"),
    ],
)
def test_images_one_by_one_give_what_a_batch_gives(name, score):
    model = make_model(name)
    whole = measure_relevance(model, batches_of(model), score)
    alone = measure_relevance(model, batches_of(model, size=1), score)
    assert alone.images == whole.images == 6
    for unit, share in whole.scores.items():
        assert alone.scores[unit] == pytest.approx(share, rel=2e-3, abs=2e-5)


def test_scores_differ_in_what_they_count(vit):
    found = [tuple(measure_relevance(vit, batches_of(vit), score).scores.values()) for score in score_names()]
    assert len(set(found)) == len(score_names())


def test_a_unit_that_nothing_passes_through_has_no_relevance(vit):
    # The output of the second block's attention is zero: all relevance takes the residual path around it.
    nn.init.zeros_(vit.vit.layers[1].attention.o_proj.weight)
    nn.init.zeros_(vit.vit.layers[1].attention.o_proj.bias)
    scores = measure_relevance(vit, batches_of(vit)).scores
    assert max(scores[f"blocks.1.{kind}"] for kind in ("qkv", "qk", "av", "proj")) < 1e-6
    assert min(scores[f"blocks.0.{kind}"] for kind in ("qkv", "qk", "av", "proj")) > 1e-3


def test_labels_start_it_where_they_are_given(vit):
    with torch.no_grad():
        predicted = vit(pixel_values=batches_of(vit)[0].pixel_values).logits.argmax(-1)
    unlabelled = measure_relevance(vit, batches_of(vit)).scores
    assert measure_relevance(vit, batches_of(vit, labels=predicted.tolist())).scores == unlabelled
    other = ((predicted + 1) % 5).tolist()
    assert measure_relevance(vit, batches_of(vit, labels=other)).scores != unlabelled


def test_it_works_on_frozen_parameters_and_without_gradients(vit):
    expected = measure_relevance(vit, batches_of(vit)).scores
    vit.requires_grad_(False)
    with torch.no_grad():
        assert measure_relevance(vit, batches_of(vit)).scores == expected
    assert not any(parameter.requires_grad for parameter in vit.parameters())


@pytest.mark.parametrize("name", ["swin", "padded_swin"])
def test_heat_maps_of_swin_hold_all_relevance(name):
    model = make_model(name)
    pixels = random_pixels(model)
    maps = explain(model, pixels)
    assert maps.shape == (len(pixels), *pixels.shape[2:])
    assert torch.allclose(maps.sum((1, 2)), torch.ones(len(pixels)), atol=1e-4)


def test_heat_maps_do_not_depend_on_the_images_beside(model):
    pixels = random_pixels(model)
    together, alone = explain(model, pixels)[1], explain(model, pixels[1:2])[0]
    assert torch.allclose(together, alone, rtol=1e-2, atol=1e-2 * float(alone.abs().max()))


def test_relevance_survives_saving(vit, tmp_path):
    result = measure_relevance(vit, batches_of(vit))
    result.save(tmp_path / "relevance.json")
    assert LayerRelevance.load(tmp_path / "relevance.json") == result


def test_an_operation_without_a_rule_is_reported_with_the_first_block(vit):
    fc2 = vit.vit.layers[1].mlp.fc2
    fc2.register_forward_hook(lambda module, arguments, output: torch.square(output))
    with pytest.warns(UserWarning, match=r"Relevance is not conserved: at the input of 'blocks.1' its sum is off by"):
        measure_relevance(vit, batches_of(vit))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_is_refused(vit, dtype):
    with pytest.raises(
        ValueError, match=r"Expected a model in float32 .* found torch\..*float16.*dtype=torch.float32"
    ):
        measure_relevance(vit.to(dtype), batches_of(vit))


def test_logits_that_are_not_numbers_raise(vit):
    vit.classifier.bias.data[0] = float("nan")
    with pytest.raises(ValueError, match="Expected finite numbers in the model's logits, found NaN"):
        measure_relevance(vit, batches_of(vit))


def test_an_unsupported_model_is_refused_with_the_supported_names():
    with pytest.raises(ValueError, match=r"Expected a model of type beit, .* vit_msn, yolos, found 'Linear'"):
        measure_relevance(nn.Linear(2, 2), [])


def test_no_images_and_unknown_scores_raise(vit):
    with pytest.raises(ValueError, match="There are no images to measure relevance on"):
        measure_relevance(vit, [])
    with pytest.raises(ValueError, match="Expected score to be one of absolute, signed, mean, gradient, found 'best'"):
        measure_relevance(vit, batches_of(vit), "best")
