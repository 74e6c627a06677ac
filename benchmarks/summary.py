# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What the README's summary needs beside the other benchmarks: float accuracy and the sizes of files.

    python benchmarks/summary.py --bench PATH

Accuracy is of the float models, on the images of the table of mixed plans. Sizes are counted from the models' shapes.
"""

import argparse
from pathlib import Path

import torch
from common import BENCH_MODELS, load_subject, logits_of, write_result
from latency import SIZES
from transformers import PreTrainedModel

from optimum_mixq import DEMO_MODELS, BitPlan, MixQConfig
from optimum_mixq.stages.allocation.costs import measure_costs
from optimum_mixq.utils.file_size import saved_bytes


FILE = "summary.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, help="folder with the models and images that are not shipped")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in (*DEMO_MODELS, *BENCH_MODELS):
        subject = load_subject(name, arguments.bench)
        half = len(subject.labels) // 2  # as benchmarks/mixed_precision.py: defaults were chosen on the first half
        labels = subject.labels[half:]
        correct = logits_of(subject.model, subject.evaluation[half:]).argmax(-1) == labels
        top1 = 100 * correct.double().mean().item()
        write_result(FILE, {"model": name, "top1": top1, "images": len(labels), **sizes(subject.model)})
    for name, build in SIZES.items():
        write_result(FILE, {"model": name, **sizes(build())})


def sizes(model: PreTrainedModel, widths: tuple[int, ...] = (3, 4)) -> dict[str, float | dict[str, float]]:
    """Return the megabytes of `model.safetensors`, float and with uniform bits of each width."""
    costs = measure_costs(model, MixQConfig().calibration)
    packed = {str(bits): costs.bytes(BitPlan.uniform(model, bits).bits) / 1e6 for bits in widths}
    return {"float_megabytes": saved_bytes(model) / 1e6, "packed_megabytes": packed}


if __name__ == "__main__":
    main()
