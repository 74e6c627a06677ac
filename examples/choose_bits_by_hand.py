# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Measure once, look at the frontier, and take one of its plans, changed by hand.

python examples/choose_bits_by_hand.py --model optimum_mixq/demo/models/swin --dataset optimum_mixq/demo/images
"""

import argparse

from optimum_mixq import BitPlan, MixQConfig, MixQQuantizer
from optimum_mixq.reporting.tables import frontier_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a float model on the Hub or a folder")
    parser.add_argument("--dataset", required=True, help="an image folder, or a data set on the Hub")
    parser.add_argument("--images", type=int, default=256, help="images that bits are chosen on")
    arguments = parser.parse_args()

    quantizer = MixQQuantizer.from_pretrained(arguments.model)
    config = MixQConfig(candidate_bits=(2, 3, 4, 5, 6), sensitivity_samples=arguments.images)
    relevance = quantizer.measure_relevance(arguments.dataset, config)
    sensitivity = quantizer.measure_sensitivity(arguments.dataset, config)
    plans = quantizer.sweep(relevance, sensitivity, (2.5, 3.0, 3.5, 4.0, 4.5))
    print(frontier_table(plans))

    first = next(iter(plans[2].bits))
    plan = BitPlan(plans[2].bits | {first: 8})
    quantizer.quantize(MixQConfig(), arguments.dataset, plan=plan)
    print(quantizer.evaluate(arguments.dataset)["quantized"])


if __name__ == "__main__":
    main()
