# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Quantize a model for its embeddings, and look for the nearest neighbours of images with what was saved.

python examples/features.py --model optimum_mixq/demo/models/vit --dataset optimum_mixq/demo/images
"""

import argparse

import torch
import torch.nn.functional as F
from transformers import AutoImageProcessor, AutoModel

from optimum_mixq import MixQConfig, MixQQuantizer, open_images
from optimum_mixq.tasks import run_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a float model on the Hub or a folder, with a head or without")
    parser.add_argument("--dataset", required=True, help="an image folder, or a data set on the Hub")
    parser.add_argument("--bits", type=float, default=4.0)
    parser.add_argument("--output", default="quantized")
    parser.add_argument("--images", type=int, default=256, help="images that bits are chosen on")
    arguments = parser.parse_args()

    quantizer = MixQQuantizer.from_pretrained(arguments.model, task="image-feature-extraction")
    config = MixQConfig(bits=arguments.bits, sensitivity_samples=arguments.images)
    quantizer.quantize(config, arguments.dataset, arguments.output)
    for name, scores in quantizer.evaluate(arguments.dataset).items():
        found = "" if scores.accuracy is None else f"nearest-neighbour accuracy {100 * scores.accuracy:.2f} %"
        distance = "" if scores.kl is None else f", cosine distance to float {scores.kl:.4f}"
        print(f"{name}: {found}{distance}")

    model = AutoModel.from_pretrained(arguments.output)
    processor = AutoImageProcessor.from_pretrained(arguments.output)
    images = open_images(arguments.dataset, model, processor, "evaluation")
    with torch.inference_mode():
        parts = [run_model(model, batch.pixel_values) for batch in images.batches(range(len(images)), 50)]
    embeddings = F.normalize(torch.cat(parts), dim=-1)  # (images, channels)
    nearest = (embeddings[:5] @ embeddings.T).topk(4).indices
    for query, *neighbours in nearest.tolist():
        print(f"image {query} is nearest to images {', '.join(map(str, neighbours))}")


if __name__ == "__main__":
    main()
