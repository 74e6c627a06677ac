# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What `optimum-cli mixq demo` does: quantize, save, reload and compare the shipped models, and time a larger one."""

import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForImageClassification, PreTrainedModel

from optimum_mixq.config import MixQConfig
from optimum_mixq.demo import DEMO_MODELS, demo_images_path, demo_model_path
from optimum_mixq.demo.speed import BITS, SIZE, TIMED_IMAGES, Speed, time_random_model
from optimum_mixq.quantizer import MixQQuantizer
from optimum_mixq.reporting.comparison import Contender
from optimum_mixq.utils.progress import our_bars_alone


# Fewer images than by default: the demo is to take a minute or two.
CONFIG = MixQConfig(bits=3, sensitivity="gradient", sensitivity_samples=64)
# Sizes from the fewest to the most bits that the first model's report compares: they take a while.
FRONTIER = 3


@dataclass(frozen=True)
class Finished:
    """What the demo has of one model: its folder, and float, uniform and mixed side by side."""

    name: str
    folder: Path
    contenders: Sequence[Contender]


def run_demo(
    output: Path,
    names: Sequence[str] = DEMO_MODELS,
    config: MixQConfig = CONFIG,
    samples: int | None = None,
    frontier: int = FRONTIER,
    size: Mapping[str, int] = SIZE,
) -> None:
    """Quantize the shipped models, write them and their reports to the folder `output`, and print what came out.

    `samples` is how many images they are evaluated on, by default all, `frontier` how many sizes the first
    one's report compares, and `size` the `ViTConfig` of the model that is timed. Progress goes to stderr.
    """
    started = time.monotonic()

    def tell(text: str) -> None:
        print(f"[{time.monotonic() - started:3.0f} s] {text}", file=sys.stderr, flush=True)

    with our_bars_alone():
        finished = []
        for number, name in enumerate(names, 1):
            tell(f"{name} (model {number} of {len(names)}): measuring its layers and choosing their bits")
            folder = output / f"{name}-mixed-{config.bits}bit"
            shutil.rmtree(folder, ignore_errors=True)  # of an earlier demo
            quantizer = MixQQuantizer.from_pretrained(demo_model_path(name))
            packed = quantizer.quantize(config, demo_images_path(), folder)
            sizes = frontier if number == 1 else 0
            more = f", and {sizes} other sizes," if sizes else ""
            tell(f"{name}: comparing float, uniform and mixed bits{more} on other images, and writing the report")
            report = quantizer.report(demo_images_path(), folder, samples=samples, frontier=sizes)
            check_reload(packed, folder)
            finished.append(Finished(name, folder, report.contenders))
        tell("timing a model of a size that people use")
        speed = time_random_model(size)
        tell("done")
    print("\n".join([*_table(finished, config), "", *_speed(speed), "", *_next_steps(finished)]), flush=True)


def check_reload(packed: PreTrainedModel, folder: Path) -> None:
    """Raise a ValueError if the model that was saved in `folder` gives other logits than `packed`."""
    reloaded = AutoModelForImageClassification.from_pretrained(folder)
    size = packed.config.image_size
    pixels = torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        if not torch.equal(reloaded(pixel_values=pixels).logits, packed(pixel_values=pixels).logits):
            raise ValueError(f"{folder} gives other logits than the model that was saved there.")


def _table(finished: Sequence[Finished], config: MixQConfig) -> list[str]:
    """Return the lines of the table. Times are left out: of models this small they say nothing of larger ones."""
    images = finished[0].contenders[0].evaluation.images
    lines = [
        f"Top-1 on {images} images that the models have not seen; KL is the distance to the float model:",
        "",
        "model  bits        top-1 %      KL  size MB",
    ]
    for model in finished:
        for contender in model.contenders:
            kind = f"mixed {config.bits}" if contender.name == "this model" else contender.name
            evaluation = contender.evaluation
            accuracy = "" if evaluation.accuracy is None else f"{100 * evaluation.accuracy:.1f}"
            distance = "" if evaluation.kl is None else f"{evaluation.kl:.4f}"
            lines.append(f"{model.name:6} {kind:11} {accuracy:>7}  {distance:>6}  {contender.megabytes:7.2f}")
    return lines


def _speed(speed: Speed) -> list[str]:
    """Return the lines on the speed of a model of random weights."""
    threads = "1 thread" if speed.threads == 1 else f"{speed.threads} threads"
    return [
        f"Speed on {threads}, of a ViT-S/16 with {TIMED_IMAGES} images of 224 pixels. Its weights are random, which",
        "says nothing of accuracy. (The models above are too small to gain speed, so their times are left out.)",
        "",
        "weights        ms/image",
        f"float32       {speed.float32:9.1f}",
        f"bfloat16      {speed.bfloat16:9.1f}",
        f"packed {BITS} bits {speed.packed:9.1f}",
        "",
        f"Packed, it is {speed.bfloat16 / speed.packed:.1f} times as fast as in bfloat16, and "
        f"{speed.float32 / speed.packed:.1f} times as fast as in float32.",
    ]


def _next_steps(finished: Sequence[Finished]) -> list[str]:
    """Return where the results are, and commands to go on with, which run as they are printed."""
    first = finished[0]
    program = name_program()
    images, model = str(demo_images_path()), str(demo_model_path(first.name))
    evaluate = [program, "mixq", "evaluate", "--model", str(first.folder), "--dataset", images]
    output = str(first.folder.parent / f"{first.name}-uniform-4bit")
    quantize = [program, "mixq", "quantize", "--model", model, "--dataset", images, "--bits", "4"]
    return [
        "Each packed model gave the same logits after a reload. Their reports, to open in a browser:",
        *(f"  {model.folder / 'report.html'}" for model in finished),
        "",
        "Next, evaluate a packed model, or quantize one yourself:",
        f"  {shlex.join(evaluate)}",
        f"  {shlex.join([*quantize, '--plan', 'uniform', '--output', output])}",
        "For your own, name a model on the Hub or a folder (--model) and your images (--dataset); leave out --plan",
        "for mixed bits. docs/quickstart.md has the rest.",
    ]


def name_program() -> str:
    """Return what a person has to type for this program: its path where the shell finds none or another."""
    own, found = Path(sys.argv[0]), shutil.which("optimum-cli")
    if own.name != "optimum-cli" or (found is not None and Path(found).resolve() == own.resolve()):
        return "optimum-cli"
    return str(own)
