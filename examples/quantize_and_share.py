# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Quantize a classifier with a few dozen images, compare it with the float model, write a report, share it.

python examples/quantize_and_share.py --model optimum_mixq/demo/models/vit --dataset optimum_mixq/demo/images
"""

import argparse

from optimum_mixq import MixQConfig, MixQQuantizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a float model on the Hub or a folder")
    parser.add_argument("--dataset", required=True, help="an image folder, or a data set on the Hub")
    parser.add_argument("--bits", type=float, default=4.0)
    parser.add_argument("--output", default="quantized")
    parser.add_argument("--images", type=int, default=256, help="images that bits are chosen on")
    parser.add_argument("--repo-id", help="where to push it, such as me/vit-mixq4")
    arguments = parser.parse_args()

    quantizer = MixQQuantizer.from_pretrained(arguments.model)
    config = MixQConfig(bits=arguments.bits, sensitivity_samples=arguments.images)
    quantizer.quantize(config, arguments.dataset, arguments.output)
    report = quantizer.report(arguments.dataset, arguments.output)
    for contender in report.contenders:
        accuracy = contender.evaluation.accuracy
        shown = "" if accuracy is None else f", top-1 {100 * accuracy:.2f} %"
        print(f"{contender.name}: {contender.megabytes:.2f} MB, {contender.milliseconds:.2f} ms per image{shown}")
    if arguments.repo_id:
        print(quantizer.push_to_hub(arguments.repo_id))


if __name__ == "__main__":
    main()
