# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What the commands of `optimum-cli mixq` do. Their words stand in `optimum/commands/register/register_mixq.py`."""

import shutil
import sys
from argparse import Namespace
from collections.abc import Callable
from functools import wraps
from pathlib import Path

import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel
from transformers.utils import logging

from optimum_mixq.config import MixQConfig
from optimum_mixq.data import draw_rows
from optimum_mixq.demo import DEMO_MODELS, demo_images_path, demo_model_path
from optimum_mixq.pictures import draw_frontier
from optimum_mixq.quantizer import MixQQuantizer, work_folder
from optimum_mixq.report import Contender, frontier_points, frontier_table
from optimum_mixq.selection import ServedImages, UnseenBatches
from optimum_mixq.sharing import megabytes_of
from optimum_mixq.sources import open_images
from optimum_mixq.stages.evaluation import Evaluation, measure_logits, score
from optimum_mixq.tasks import task_of
from optimum_mixq.training_config import MixQTrainingConfig


def _one_line_errors(command: Callable[[Namespace], None]) -> Callable[[Namespace], None]:
    """Print what a person can mend as one line, without a traceback, and exit with 1."""

    @wraps(command)
    def run(arguments: Namespace) -> None:
        try:
            command(arguments)
        except (ValueError, OSError) as error:
            sys.exit(f"optimum-cli mixq: {error}")
        except KeyboardInterrupt:
            sys.exit(
                "optimum-cli mixq: stopped; nothing was written to the output folder. The same command goes on from "
                "what was measured."
            )

    return run


@_one_line_errors
def run_quantize(arguments: Namespace) -> None:
    quantizer = MixQQuantizer.from_pretrained(arguments.model)
    config = MixQConfig(
        bits=arguments.bits,
        size_mb=arguments.size_mb,
        arithmetic=arguments.arithmetic,
        calibration_samples=arguments.calibration_samples,
        sensitivity_samples=arguments.sensitivity_samples,
        seed=arguments.seed,
    )
    if arguments.measured is not None:
        quantizer.load_measurements(arguments.measured)
    plan = None if arguments.plan == "mixed" else arguments.plan
    quantizer.quantize(config, arguments.dataset, arguments.output, plan, arguments.split)
    print(f"{arguments.output}: {megabytes_of(Path(arguments.output)):.2f} MB")


@_one_line_errors
def run_train(arguments: Namespace) -> None:
    quantizer = MixQQuantizer.from_pretrained(arguments.model)
    config = MixQConfig(bits=arguments.bits, sensitivity_samples=arguments.sensitivity_samples, seed=arguments.seed)
    training = MixQTrainingConfig(
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        distillation=arguments.distillation,
        mixed_precision=arguments.mixed_precision,
        flip=not arguments.no_flip,
        seed=arguments.seed,
    )
    if arguments.measured is not None:
        quantizer.load_measurements(arguments.measured)
    plan = None if arguments.plan == "mixed" else arguments.plan
    evaluation = arguments.evaluation_dataset or arguments.dataset if arguments.evaluate else None
    quantizer.train(
        arguments.dataset, training, config, plan, arguments.output, arguments.split, evaluation,
        arguments.evaluation_split,
    )  # fmt: skip
    for epoch in quantizer.history:
        accuracy = "" if epoch.accuracy is None else f", top-1 {100 * epoch.accuracy:.2f} %"
        print(f"epoch {epoch.epoch}: loss {epoch.loss:.4f}{accuracy}, {epoch.seconds:.0f} s")


@_one_line_errors
def run_evaluate(arguments: Namespace) -> None:
    model = AutoModelForImageClassification.from_pretrained(arguments.model)
    processor = AutoImageProcessor.from_pretrained(arguments.model)
    images = open_images(arguments.dataset, model, processor, role="evaluation", split=arguments.split)
    packed = getattr(model, "quantization_method", None) is not None
    served = ServedImages.find(arguments.model) if packed else ServedImages()
    rows = draw_rows(images, arguments.samples, arguments.seed)
    batches = UnseenBatches(images, rows, arguments.batch_size, served or ServedImages())
    logits, labels = measure_logits(model, batches)
    if labels is None:
        raise ValueError(f"{arguments.dataset} has no labels, so there is no accuracy to measure.")
    print(f"{arguments.model}: {_accuracy_text(score(logits, labels, None, task_of(model)))}")
    if served is None or not served.complete:
        print("It is not recorded which images served calibration: some of these may have.")
    if batches.left_out:
        print(batches.summary())


@_one_line_errors
def run_sweep(arguments: Namespace) -> None:
    quantizer = MixQQuantizer.from_pretrained(arguments.model)
    config = MixQConfig(
        candidate_bits=(2, 3, 4, 5, 6),
        arithmetic=arguments.arithmetic,
        sensitivity_samples=arguments.sensitivity_samples,
        seed=arguments.seed,
    )
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    work = work_folder(output)
    relevance = quantizer.measure_relevance(arguments.dataset, config, arguments.split, work)
    sensitivity = quantizer.measure_sensitivity(arguments.dataset, config, arguments.split, work)
    relevance.save(output / "mixq_relevance.json")
    sensitivity.save(output / "mixq_sensitivity.json")
    plans = quantizer.sweep(relevance, sensitivity, arguments.bits, config)
    for average, plan in zip(arguments.bits, plans, strict=True):
        plan.save(output / f"plan-{average:g}.json")
    (output / "frontier.svg").write_text(draw_frontier(frontier_points(plans)), encoding="utf-8")
    shutil.rmtree(work, ignore_errors=True)
    print(frontier_table(plans))
    print(f"\nThe plans lie in {output}: `optimum-cli mixq quantize --plan FILE` takes one.")


@_one_line_errors
def run_report(arguments: Namespace) -> None:
    quantizer = MixQQuantizer.reopen(arguments.model, arguments.float_model)
    folder = Path(arguments.output or arguments.model)
    if arguments.output is None and not folder.is_dir():
        raise ValueError(f"{folder} is no folder to write the report into: name one with --output.")
    report = quantizer.report(
        arguments.dataset, folder, arguments.split, arguments.samples, arguments.calibration_split
    )
    for contender in report.contenders:
        print(f"{contender.name}: {contender.megabytes:.2f} MB, {_accuracy_text(contender.evaluation)}")
    print(f"The report is {folder / 'report.html'}")


@_one_line_errors
def run_demo(arguments: Namespace) -> None:
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    logging.disable_progress_bar()
    print("model  bits          top-1 %  size MB  ms/image", flush=True)
    for name in DEMO_MODELS:
        quantizer = MixQQuantizer.from_pretrained(demo_model_path(name))
        images = demo_images_path()
        # Measured once, at the widths that both targets choose from.
        widths = MixQConfig(candidate_bits=(2, 3, 4, 5, 6), sensitivity_samples=64)
        quantizer.measure_sensitivity(images, widths)
        for bits in (4, 3):
            config = MixQConfig(bits=bits, sensitivity_samples=widths.sensitivity_samples)
            folder = output / f"{name}-mixed-{bits}bit"
            shutil.rmtree(folder, ignore_errors=True)  # of an earlier demo
            packed = quantizer.quantize(config, images, folder)
            report = quantizer.report(images, folder)
            # Float and uniform stand in the table once.
            for contender in report.contenders if bits == 4 else report.contenders[-1:]:
                _print_row(name, contender, bits)
            _check_reload(packed, folder)
    print(
        f"The packed models lie in {output}, each with its report.html, and each gave the same logits after a reload."
    )


def _check_reload(packed: PreTrainedModel, folder: Path) -> None:
    reloaded = AutoModelForImageClassification.from_pretrained(folder)
    pixels = torch.randn(8, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        if not torch.equal(reloaded(pixel_values=pixels).logits, packed(pixel_values=pixels).logits):
            raise ValueError(f"{folder} gives other logits than the model that was saved there.")


def _print_row(name: str, contender: Contender, bits: int) -> None:
    accuracy = "" if contender.evaluation.accuracy is None else f"{100 * contender.evaluation.accuracy:7.2f}"
    kind = f"mixed {bits}" if contender.name == "this model" else contender.name
    print(f"{name:6} {kind:13} {accuracy}  {contender.megabytes:7.2f}  {contender.milliseconds:8.2f}", flush=True)


def _accuracy_text(result: Evaluation) -> str:
    assert result.accuracy is not None and result.accuracy_interval is not None
    low, high = result.accuracy_interval
    return (
        f"top-1 {100 * result.accuracy:.2f} % on {result.images} images "
        f"(95 % interval {100 * low:.2f}-{100 * high:.2f})"
    )
