# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Accuracy of uniform post-training quantization, without any training.

    python benchmarks/uniform_ptq.py --bench PATH              # measure and print the table
    python benchmarks/uniform_ptq.py --bench PATH --ablation   # what each ingredient gives
    python benchmarks/uniform_ptq.py --table                   # print what was measured before

Seed s calibrates on images 32 s to 32 s + 31. Every number is of the packed model, on all evaluation images. The
calibration's cost is given in forwards of the float model on the same 32 images, timed before and after it.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from common import BENCH_MODELS, Subject, load_subject, logits_of, machine, read_results, write_result

from optimum_mixq import DEMO_MODELS
from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import MixQConfig
from optimum_mixq.integration.hf_quantizer import attach
from optimum_mixq.stages.calibration.blocks import calibrate
from optimum_mixq.stages.evaluation import score
from optimum_mixq.stages.packing import pack


FILE = "uniform_ptq.jsonl"
# RepQ-ViT's own code on the same weights and images: top-1 in percent, mean of three seeds.
REPQ_VIT = {
    ("vit-small-cifar10", 8): 92.58, ("vit-small-cifar10", 6): 92.03, ("vit-small-cifar10", 4): 87.15,
    ("vit-small-cifar10", 3): 31.08, ("vit-small-tin200", 8): 40.57, ("vit-small-tin200", 6): 32.38,
    ("vit-small-tin200", 4): 4.17, ("vit-small-tin200", 3): 0.75,
}  # fmt: skip
ABLATION = {
    "all of it": {},
    "min-max instead of searched inputs": {"input_search": False},
    "min-max instead of searched weights": {"weight_search": False},
    "every channel its own step": {"level": False},
    "no balance of query and key": {"balance": False},
    "no correction of weights": {"correction": False},
    "rounding to nearest": {"compensation": False},
    "neither correction nor compensation": {"correction": False, "compensation": False},
    "folded": {"arithmetic": "folded"},
    "folded, no clip": {"arithmetic": "folded", "clip": None},
}


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    if not arguments.table:
        for name in arguments.models:
            subject = load_subject(name, arguments.bench)
            reference = logits_of(subject.model, subject.evaluation)
            variants = {name: ABLATION[name] for name in arguments.variants} if arguments.ablation else {"default": {}}
            for variant, options in variants.items():
                for arithmetic in arguments.arithmetic:
                    for bits in arguments.bits:
                        for seed in arguments.seeds:
                            plain = {"bits": bits, "arithmetic": arithmetic, "reconstruction": None}
                            config = MixQConfig(**{**plain, **options})
                            measure(subject, reference, config, seed, variant)
    print_table()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, help="folder with the models and images that are not shipped")
    parser.add_argument("--models", nargs="+", default=[*BENCH_MODELS, *DEMO_MODELS])
    parser.add_argument("--bits", nargs="+", type=int, default=[8, 6, 4, 3])
    parser.add_argument("--arithmetic", nargs="+", default=["column", "folded"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--variants", nargs="+", default=[*ABLATION], choices=[*ABLATION], help="of the ablation")
    parser.add_argument("--table", action="store_true", help="only print what was measured before")
    return parser.parse_args()


def measure(subject: Subject, reference: torch.Tensor, config: MixQConfig, seed: int, variant: str) -> None:
    images = subject.calibration[32 * seed : 32 * seed + 32]
    plan = BitPlan.uniform(subject.model, config.bits)
    before = time_forward(subject.model, images)
    started = time.perf_counter()
    prepared = calibrate(subject.model, plan, [images], config)
    seconds = time.perf_counter() - started
    forward = (before + time_forward(subject.model, images)) / 2
    packed = attach(pack(prepared), plan, config)
    result = score(logits_of(packed, subject.evaluation), subject.labels, reference)
    row = {
        "model": subject.name, "bits": config.bits, "arithmetic": config.arithmetic, "variant": variant, "seed": seed,
        "float_top1": 100 * score(reference, subject.labels).accuracy, "top1": 100 * result.accuracy,
        "agreement": 100 * result.agreement, "kl": result.kl, "images": result.images,
        "seconds": seconds, "forwards": seconds / forward, "machine": machine(),
    }  # fmt: skip
    write_result(FILE, row)
    print(
        f"{subject.name} W{config.bits}A{config.bits} {config.arithmetic} {variant} seed {seed}: {result}", flush=True
    )


def time_forward(model: torch.nn.Module, images: torch.Tensor) -> float:
    started = time.perf_counter()
    logits_of(model, images, len(images))
    return time.perf_counter() - started


def print_table() -> None:
    rows = read_results(FILE)
    print("\n| model | float | W/A | arithmetic | variant | top-1 % | agreement % | KL | RepQ-ViT | forwards |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    keys = list(dict.fromkeys((r["model"], r["bits"], r["arithmetic"], r["variant"]) for r in rows))
    for key in keys:
        group = [r for r in rows if (r["model"], r["bits"], r["arithmetic"], r["variant"]) == key]
        top1 = [r["top1"] for r in group]
        spread = f"{statistics.mean(top1):.2f} ({min(top1):.2f}-{max(top1):.2f})"
        repq = REPQ_VIT.get(key[:2], "")
        print(
            f"| {key[0]} | {group[0]['float_top1']:.2f} | {key[1]}/{key[1]} | {key[2]} | {key[3]} | {spread} "
            f"| {statistics.mean(r['agreement'] for r in group):.1f} | {statistics.mean(r['kl'] for r in group):.4f} "
            f"| {repq} | {statistics.median(r['forwards'] for r in group):.1f} |"
        )


if __name__ == "__main__":
    main()
