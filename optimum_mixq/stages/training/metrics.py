# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Top-1 as a metric of Hugging Face Evaluate that needs no network, for training loops of one's own."""

from typing import Any


def load_accuracy() -> Any:
    """Return an `evaluate.Metric` that `add_batch(predictions=, references=)` feeds and `compute()` reads.

    `evaluate.load("accuracy")` fetches its code from the Hub; this one is here. Evaluate takes seconds to import, so
    that it is imported here.
    """
    import datasets
    import evaluate

    class Accuracy(evaluate.Metric):
        def _info(self) -> evaluate.MetricInfo:
            number = datasets.Value("int64")
            return evaluate.MetricInfo(
                description="Share of predictions that are the reference.",
                citation="",
                inputs_description="predictions and references: class numbers",
                features=datasets.Features({"predictions": number, "references": number}),
            )

        def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
            right = sum(found == wanted for found, wanted in zip(predictions, references, strict=True))
            return {"accuracy": right / len(references)}

    return Accuracy(keep_in_memory=True)
