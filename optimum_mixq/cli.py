# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What the commands of `optimum-cli mixq` do. Their words stand in `optimum/commands/register/register_mixq.py`."""

import shlex
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import fields, replace
from functools import wraps
from pathlib import Path
from typing import Any

import torch

from optimum_mixq.config import GROUPS, MixQConfig, SavedState
from optimum_mixq.demo.run import run_demo as show_demo
from optimum_mixq.export import export_model
from optimum_mixq.export.targets import target_of
from optimum_mixq.images.batches import draw_rows
from optimum_mixq.images.preparation import load_processor
from optimum_mixq.images.selection import FILE_NAME, ServedImages, UnseenBatches
from optimum_mixq.images.sources import open_images
from optimum_mixq.quantizer import SWEEP, MixQQuantizer
from optimum_mixq.reporting.chart import draw_frontier
from optimum_mixq.reporting.compare import Tally
from optimum_mixq.reporting.frontier import name_score
from optimum_mixq.reporting.quantized import open_folder
from optimum_mixq.reporting.tables import frontier_points, frontier_table
from optimum_mixq.reporting.wording import (
    describe_certainty,
    describe_comparison,
    describe_evaluation,
    describe_plan,
    describe_time,
    describe_training,
)
from optimum_mixq.stages.evaluation import run_together
from optimum_mixq.stages.training.config import MixQTrainingConfig
from optimum_mixq.tasks import task_of
from optimum_mixq.tasks.loading import load_model
from optimum_mixq.utils.file_size import megabytes_of, saved_bytes
from optimum_mixq.utils.folders import make_folder, require_empty, work_folder


def _one_line_errors(command: Callable[[Namespace], None]) -> Callable[[Namespace], None]:
    """Print what a person can mend as one line, without a traceback, and exit with 1."""

    @wraps(command)
    def run(arguments: Namespace) -> None:
        try:
            command(arguments)
        except (ValueError, OSError) as error:
            sys.exit(f"optimum-cli mixq: {' '.join(str(error).split())}")

    return run


@_one_line_errors
def run_quantize(arguments: Namespace) -> None:
    started = time.monotonic()
    require_empty(Path(arguments.output))
    config = _read_config(arguments)
    quantizer = _open_quantizer(arguments)
    quantizer.quantize(config, arguments.dataset, arguments.output, arguments.plan, arguments.split)
    _print_made(quantizer, arguments, time.monotonic() - started)


@_one_line_errors
def run_train(arguments: Namespace) -> None:
    started = time.monotonic()
    require_empty(Path(arguments.output))
    # The batch size is training's: measurements keep their own.
    config, training = _read_config(arguments, batch_size=MixQConfig.batch_size), _read_training(arguments)
    quantizer = _open_quantizer(arguments)
    evaluation = arguments.evaluation_dataset or arguments.dataset if arguments.evaluate else None
    quantizer.train(
        arguments.dataset, training, config, arguments.plan, arguments.output, arguments.split, evaluation,
        arguments.evaluation_split,
    )  # fmt: skip
    _print_made(quantizer, arguments, time.monotonic() - started)
    task = task_of(quantizer.model)
    for line in describe_training(quantizer.history, arguments.evaluate, task.accuracy_name, task.divergence_name):
        print(line)


@_one_line_errors
def run_evaluate(arguments: Namespace) -> None:
    model = load_model(arguments.model, arguments.task, revision=arguments.revision or "main")
    model = model.to(_read_device(arguments))
    processor = load_processor(arguments.model, {"revision": arguments.revision or "main"})
    images = open_images(arguments.dataset, model, processor, role="evaluation", split=arguments.split)
    packed = getattr(model, "quantization_method", None) is not None
    served = ServedImages.find(arguments.model) if packed else ServedImages()
    rows = draw_rows(images, arguments.samples, arguments.seed)
    batches = UnseenBatches(images, rows, arguments.batch_size, served or ServedImages())
    task = task_of(model)
    tally = Tally(task)
    for batch, logits in run_together({"model": model}, batches):
        tally.add(logits["model"], batch.labels, None)
    if not tally.labelled:
        raise ValueError(f"{arguments.dataset} has no labels, so there is no accuracy to measure.")
    print(f"{arguments.model}: {describe_evaluation(tally.evaluation(), task.accuracy_name)}")
    if served is None or not served.complete:
        print("It is not recorded which images served calibration: some of these may have.")
    if batches.left_out:
        print(batches.summary())


@_one_line_errors
def run_sweep(arguments: Namespace) -> None:
    output = make_folder(Path(arguments.output))
    quantizer = _open_quantizer(arguments)
    config = replace(_read_config(arguments, bits=SWEEP.bits), candidate_bits=SWEEP.candidate_bits)
    work = work_folder(output)
    relevance = quantizer.measure_relevance(arguments.dataset, config, arguments.split, work)
    sensitivity = quantizer.measure_sensitivity(arguments.dataset, config, arguments.split, work)
    quantizer.selection.served.save(output / FILE_NAME)
    quantizer.known.save(output)
    plans = quantizer.sweep(relevance, sensitivity, arguments.bits, config)
    for average, plan in zip(arguments.bits, plans, strict=True):
        plan.save(output / f"plan-{average:g}.json")
    picture = draw_frontier(frontier_points(plans), name_score(config.alpha, relevance))
    (output / "frontier.svg").write_text(picture, encoding="utf-8")
    shutil.rmtree(work, ignore_errors=True)
    print(frontier_table(plans))
    print(f"\nThe plans lie in {output}: `optimum-cli mixq quantize --plan FILE` takes one.")


@_one_line_errors
def run_report(arguments: Namespace) -> None:
    folder = Path(arguments.output or arguments.model)
    if arguments.output is None and not folder.is_dir():
        raise ValueError(f"{folder} is no folder to write the report into: name one with --output.")
    make_folder(folder)
    quantizer = MixQQuantizer.reopen(arguments.model, arguments.float_model)
    report = quantizer.report(
        arguments.dataset, folder, arguments.split, arguments.samples, arguments.calibration_split, arguments.frontier
    )
    found = report.comparison
    for contender in report.contenders:
        told = describe_evaluation(contender.evaluation, found.accuracy_name, found.divergence_name)
        print(f"{contender.name}: {contender.megabytes:.2f} MB, {told}")
    print(f"The report is {folder / 'report.html'}")


@_one_line_errors
def run_export(arguments: Namespace) -> None:
    target_of(arguments.to).require_packages()
    require_empty(Path(arguments.output))
    opened = open_folder(arguments.model)
    exported = export_model(
        opened.quantized.model, opened.quantized.plan, opened.processor, arguments.to, arguments.output,
        arguments.weights, arguments.attention, arguments.image_size, arguments.dataset, arguments.split,
    )  # fmt: skip
    print(exported.describe())


@_one_line_errors
def run_demo(arguments: Namespace) -> None:
    show_demo(make_folder(Path(arguments.output)))


def _open_quantizer(arguments: Namespace) -> MixQQuantizer:
    """Return the quantizer of the float model, with the measurements of an earlier run if some are named."""
    device = _read_device(arguments)
    quantizer = MixQQuantizer.from_pretrained(
        arguments.model, revision=arguments.revision, device=device, task=arguments.task
    )
    if getattr(arguments, "measured", None) is not None:
        quantizer.load_measurements(arguments.measured)
    return quantizer


def _read_device(arguments: Namespace) -> torch.device:
    try:
        device = torch.device(arguments.device or "cpu")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch 2.13 built without CUDA raises an AssertionError
        reason = str(error).splitlines()[0]
        raise ValueError(f"There is no device '{arguments.device}' on this machine: {reason}") from error
    return device


def _read_config(arguments: Namespace, **given: Any) -> MixQConfig:
    """Return the configuration of the words that a command has; `given` comes before them."""
    options = {option.name for group in GROUPS if group is not SavedState for option in fields(group)}
    words = {name: value for name, value in vars(arguments).items() if name in options}
    if words.get("reconstruction") == "none":
        words["reconstruction"] = None
    return MixQConfig(**{**words, "overrides": dict(arguments.overrides), **given})


def _read_training(arguments: Namespace) -> MixQTrainingConfig:
    options = {option.name for option in fields(MixQTrainingConfig)}
    words = {name: value for name, value in vars(arguments).items() if name in options}
    return MixQTrainingConfig(**words, flip=not arguments.no_flip)


def _print_made(quantizer: MixQQuantizer, arguments: Namespace, seconds: float) -> None:
    """Print what a packed model is, and what to do with it next."""
    assert quantizer.plan is not None  # what is quantized has a plan
    size, float_size = megabytes_of(Path(arguments.output)), saved_bytes(quantizer.model) / 1e6
    print(f"{arguments.output}: {size:.2f} MB instead of {float_size:.2f} MB, in {describe_time(seconds)}")
    print(f"plan: {describe_plan(quantizer.plan, quantizer.model)}")
    for line in (*describe_comparison(quantizer.plan), *describe_certainty(quantizer.plan)):
        print(line)
    words = ["optimum-cli", "mixq", "report", "--model", arguments.output, "--dataset", arguments.dataset]
    print(f"next: {shlex.join([*words, '--float-model', arguments.model])}")
