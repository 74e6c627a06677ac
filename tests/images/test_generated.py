# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import math

import pytest
import torch
from conftest import make_model

from optimum_mixq import MixQConfig, MixQQuantizer
from optimum_mixq.architectures.describe import configured_image_size
from optimum_mixq.images.generated import base, patch_similarity
from optimum_mixq.images.generated.base import (
    GENERATORS,
    ImageGenerator,
    draw_natural,
    pixel_scale,
    register_generator,
)
from optimum_mixq.images.generated.patch_similarity import PatchSimilarity, similarity_entropy, total_variation
from optimum_mixq.images.sources import open_images


def made(name, model, processor, rows):
    return next(open_images(name, model, processor).batches(rows, len(rows))).pixel_values


def generators(count):
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def test_the_entropy_of_similarities_is_that_of_a_sum_over_pairs_and_points():
    hidden = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    width, points = patch_similarity.BANDWIDTH, patch_similarity.POINTS
    found = similarity_entropy(hidden)
    for image in range(2):
        similarities = []
        for i in range(4):
            for j in range(i + 1, 4):
                u, v = hidden[image, i].tolist(), hidden[image, j].tolist()
                product = sum(a * b for a, b in zip(u, v, strict=True))
                similarities.append(product / math.sqrt(sum(a * a for a in u) * sum(b * b for b in v)))
        entropy = 0.0
        for k in range(points):
            x = -1 + 2 * k / (points - 1)
            density = sum(
                math.exp(-((x - s) ** 2) / (2 * width**2)) / (width * math.sqrt(2 * math.pi)) for s in similarities
            ) / len(similarities)
            entropy -= density * math.log(max(density, 1e-12)) * 2 / (points - 1)
        assert float(found[image]) == pytest.approx(entropy, rel=1e-9)


def test_total_variation_is_that_of_a_sum_over_neighbours():
    pixels = torch.rand(1, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    down = [(pixels[0, c, r + 1, x] - pixels[0, c, r, x]) ** 2 for c in range(2) for r in range(2) for x in range(4)]
    right = [(pixels[0, c, r, x + 1] - pixels[0, c, r, x]) ** 2 for c in range(2) for r in range(3) for x in range(3)]
    expected = (sum(down) / len(down) + sum(right) / len(right)) / pixels.var()
    assert float(total_variation(pixels)[0]) == pytest.approx(float(expected))


def test_the_amplitude_of_noise_falls_as_one_over_the_frequency():
    model = make_model("vit")
    noise = torch.stack([draw_natural(model, generator) for generator in generators(400)]) - 0.5
    power = torch.fft.fft2(noise).abs().square().mean((0, 1))
    # Along one axis, from one wave per image to four: power times frequency squared stays the same.
    flat = power[0, 1:5] * torch.arange(1, 5).square()
    assert torch.allclose(flat, flat.mean().expand(4), rtol=0.15)
    assert float(noise.std()) == pytest.approx(0.25, rel=0.1)


def test_noise_is_scaled_as_the_processor_scales_pixels(vit, processor):
    processor.image_mean, processor.image_std = [0.1, 0.2, 0.3], [0.5, 0.25, 2.0]
    found = made("noise", vit, processor, [3])[0]
    pixels = draw_natural(vit, torch.Generator().manual_seed(3)).clamp(0, 1)
    for channel, (mean, deviation) in enumerate(zip(processor.image_mean, processor.image_std, strict=True)):
        assert torch.allclose(found[channel], (pixels[channel] - mean) / deviation, atol=1e-6)


@pytest.mark.parametrize("name", ["noise", "synthetic"])
def test_a_row_is_the_same_in_every_batch(monkeypatch, name, vit, processor):
    monkeypatch.setattr(PatchSimilarity, "iterations", 3)
    together = made(name, vit, processor, [5, 0, 9])
    alone = made(name, vit, processor, [9])
    assert torch.allclose(together[2], alone[0], atol=1e-3)
    assert not torch.allclose(together[0], together[1], atol=0.1)


def test_patch_similarity_raises_entropy_and_what_the_drawn_class_gets(vit, processor):
    scale, maker = pixel_scale(vit, processor), PatchSimilarity()
    start = torch.stack([scale.normalize(draw_natural(vit, generator)) for generator in generators(4)])
    classes = []
    for generator in generators(4):
        draw_natural(vit, generator)
        classes.append(int(torch.randint(2**31, (), generator=generator)))
    found = maker.make(vit, scale, generators(4))
    before, after = (maker.loss(vit, pixels, torch.tensor(classes)).detach() for pixels in (start, found))
    assert (after < before).all()
    assert float(after.mean()) < float(before.mean()) - 0.5
    ends = scale.normalize(torch.zeros(3, 1, 1)), scale.normalize(torch.ones(3, 1, 1))
    assert (found >= ends[0]).all() and (found <= ends[1]).all()


def test_the_model_is_left_as_it_is(monkeypatch, vit, processor):
    monkeypatch.setattr(PatchSimilarity, "iterations", 2)
    vit.train()
    made("synthetic", vit, processor, [0, 1])
    assert vit.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in vit.parameters())
    assert not any(module._forward_hooks for module in vit.modules())


def test_every_family_takes_the_images_that_are_made_for_it(monkeypatch, model):
    monkeypatch.setattr(PatchSimilarity, "iterations", 1)
    pixels = made("synthetic", model, None, [0, 1])
    assert tuple(pixels.shape) == (2, 3, *configured_image_size(model))
    assert not torch.equal(pixels, made("noise", model, None, [0, 1]))


def test_a_model_is_calibrated_without_an_image(monkeypatch, vit, processor):
    monkeypatch.setattr(PatchSimilarity, "iterations", 2)
    config = MixQConfig(bits=8, calibration_samples=4)
    quantized = MixQQuantizer(vit, processor).quantize(config, "synthetic", plan="uniform")
    pixels = made("noise", vit, processor, [8, 9])
    with torch.no_grad():
        found, expected = quantized(pixel_values=pixels).logits, vit(pixel_values=pixels).logits
    assert torch.allclose(found, expected, atol=0.1 * float(expected.abs().max()))
    assert quantized.config.quantization_config.record["calibration"]["dataset"] == "synthetic"


def test_evaluation_on_generated_images_is_refused(vit, processor):
    with pytest.raises(ValueError, match=r"labels to evaluate on, found dataset='synthetic'.*a folder or a data set"):
        open_images("synthetic", vit, processor, "evaluation")


def test_a_split_of_generated_images_is_refused(vit, processor):
    with pytest.raises(ValueError, match=r"split='train' .* 'noise' has no splits. Leave out split"):
        open_images("noise", vit, processor, split="train")


def test_a_generator_of_ones_own_is_a_data_set(vit, processor):
    @register_generator
    class Grey(ImageGenerator):
        name = "grey"

        def make(self, model, scale, generators):
            return scale.normalize(torch.full((len(generators), 3, *configured_image_size(model)), 0.5))

    try:
        assert "grey" in base.generator_names()
        assert made("grey", vit, processor, [0, 7]).unique().tolist() == [0.0]
    finally:
        del GENERATORS["grey"]
