# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Quantize a small SegFormer on scenes of Fashion-MNIST images, and have transformers' pipeline tell what is where.

    python examples/segmentation.py

The model is shipped, and scenes are made of the shipped images: those of split "train" choose the bits, and those of
"test" are evaluated.
"""

import argparse

import numpy as np
from PIL import Image
from scenes import compose_scenes, load_shipped_split
from transformers import pipeline

from optimum_mixq import MixQConfig, MixQQuantizer, demo_model_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(demo_model_path("segformer")), help="a model of scenes")
    parser.add_argument("--bits", type=float, default=4.0)
    parser.add_argument("--output", default="quantized")
    parser.add_argument("--scenes", type=int, default=128, help="scenes that ranges and bits are chosen on")
    parser.add_argument("--test-scenes", type=int, default=200)
    arguments = parser.parse_args()

    quantizer = MixQQuantizer.from_pretrained(arguments.model)
    quantizer.quantize(MixQConfig(bits=arguments.bits), make_pairs("train", arguments.scenes), arguments.output)
    test = make_pairs("test", arguments.test_scenes)
    for name, scores in quantizer.evaluate(test).items():
        found = "" if scores.accuracy is None else f"mean IoU {100 * scores.accuracy:.2f} %"
        distance = "" if scores.kl is None else f", KL to float per pixel {scores.kl:.4f}"
        print(f"{name}: {found}{distance}")

    segment = pipeline("image-segmentation", model=arguments.output)
    picture, _ = test[0]
    for part in segment(picture):
        print(f"{part['label']}: {100 * np.asarray(part['mask']).astype(bool).mean():.1f} % of the first scene")


def make_pairs(split: str, count: int) -> list[tuple[Image.Image, Image.Image]]:
    """Return so many scenes of a split's shipped images, each with its mask."""
    images, labels = load_shipped_split(split)
    return [(scene.picture(), scene.mask_picture()) for scene in compose_scenes(images, labels, range(count), split)]


if __name__ == "__main__":
    main()
