# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
from PIL import Image
from transformers import ViTImageProcessorPil

from optimum_mixq.images.preparation import with_image_size


PICTURE = Image.new("RGB", (57, 41))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"size": {"height": 16, "width": 16}}, {"height": 24, "width": 20}),
        (
            {"size": {"height": 20, "width": 20}, "do_center_crop": True, "crop_size": {"height": 16, "width": 16}},
            {"height": 30, "width": 25},
        ),
        (
            {"size": {"shortest_edge": 20}, "do_center_crop": True, "crop_size": {"height": 16, "width": 16}},
            {"shortest_edge": 25},
        ),
    ],
)
def test_a_processor_with_an_image_size_keeps_the_share_that_is_cropped(options, expected):
    processor = CroppingProcessor(**options)
    resized = with_image_size(processor, (24, 20))
    assert {key: side for key, side in dict(resized.size).items() if side is not None} == expected
    assert tuple(resized(images=[PICTURE], return_tensors="pt")["pixel_values"].shape) == (1, 3, 24, 20)
    assert processor.to_dict() == CroppingProcessor(**options).to_dict()


class CroppingProcessor(ViTImageProcessorPil):
    """ViT's processor, which crops where its options say so."""


class Stubborn(ViTImageProcessorPil):
    """Makes images of 16 x 16 whatever its options say."""

    def __call__(self, images, **options):
        return ViTImageProcessorPil(size={"height": 16, "width": 16})(images, **options)


def test_a_processor_that_makes_other_images_is_refused():
    with pytest.raises(
        ValueError, match="Expected the image processor to make images of 24 x 20 pixels, found 16 x 16"
    ):
        with_image_size(Stubborn(), (24, 20))
