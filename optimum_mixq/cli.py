# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What the commands of `optimum-cli mixq` do. Their words stand in `optimum/commands/register/register_mixq.py`."""

import sys
from argparse import Namespace
from collections.abc import Callable
from functools import wraps

from transformers import AutoImageProcessor, AutoModelForImageClassification

from optimum_mixq.data import draw_rows, open_images
from optimum_mixq.demo import DEMO_MODELS, demo_images_path, demo_model_path
from optimum_mixq.stages.evaluation import Evaluation, measure_logits, score


def _one_line_errors(command: Callable[[Namespace], None]) -> Callable[[Namespace], None]:
    """Print what a person can mend as one line, without a traceback, and exit with 1."""

    @wraps(command)
    def run(arguments: Namespace) -> None:
        try:
            command(arguments)
        except (ValueError, OSError) as error:
            sys.exit(f"optimum-cli mixq: {error}")

    return run


@_one_line_errors
def run_evaluate(arguments: Namespace) -> None:
    result = _evaluate(arguments.model, arguments.dataset, arguments.split, arguments)
    print(f"{arguments.model}: {_accuracy_text(result)}")


@_one_line_errors
def run_demo(arguments: Namespace) -> None:
    for name in DEMO_MODELS:
        options = Namespace(samples=None, seed=0, batch_size=50)
        result = _evaluate(str(demo_model_path(name)), str(demo_images_path()), "test", options)
        print(f"{name}: float {_accuracy_text(result)}")


def _evaluate(model_name: str, dataset: str, split: str | None, options: Namespace) -> Evaluation:
    model = AutoModelForImageClassification.from_pretrained(model_name)
    processor = AutoImageProcessor.from_pretrained(model_name)
    images = open_images(dataset, model, processor, role="evaluation", split=split)
    rows = draw_rows(images, options.samples, options.seed)
    logits, labels = measure_logits(model, images.batches(rows, options.batch_size))
    if labels is None:
        raise ValueError(f"{dataset} has no labels, so there is no accuracy to measure.")
    return score(logits, labels)


def _accuracy_text(result: Evaluation) -> str:
    assert result.accuracy is not None and result.accuracy_interval is not None
    low, high = result.accuracy_interval
    return (
        f"top-1 {100 * result.accuracy:.2f} % on {result.images} images "
        f"(95 % interval {100 * low:.2f}-{100 * high:.2f})"
    )
