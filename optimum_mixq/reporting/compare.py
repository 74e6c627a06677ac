# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Runs models side by side over images that stream by, of which none is kept but the few that a report shows."""

from collections.abc import Mapping

from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.images.selection import UnseenBatches
from optimum_mixq.reporting.comparison import Comparison, Contender, name_machine
from optimum_mixq.reporting.gallery import Gallery
from optimum_mixq.stages.evaluation import Evaluation, run_together, score
from optimum_mixq.tasks import Task, task_of
from optimum_mixq.utils.file_size import saved_bytes
from optimum_mixq.utils.progress import progress_bar


class Tally:
    """The scores of one model, batch by batch: agreement and divergence are means over images."""

    def __init__(self, task: Task) -> None:
        self.task, self.images, self.labelled = task, 0, True
        self._meter = task.meter()
        self._sums: dict[str, float | None] = {"agreement": 0.0, "kl": 0.0}

    def add(self, logits: Tensor, labels: Tensor | None, reference: Tensor | None) -> None:
        """Add a batch's logits (B, ...), and what they are judged by."""
        found = score(logits, None, reference, self.task)
        self.images += found.images
        for name, total in self._sums.items():
            value = found[name]
            self._sums[name] = None if total is None or value is None else total + value * found.images
        if labels is None:
            self.labelled = False
        elif self.labelled:
            self._meter.add(logits, labels)

    def evaluation(self) -> Evaluation:
        means = {name: None if total is None else total / self.images for name, total in self._sums.items()}
        accuracy = self._meter.value() if self.labelled else None
        return Evaluation(self.images, accuracy, **means, is_share=self.task.accuracy_is_share)


def score_together(
    models: Mapping[str, PreTrainedModel], batches: UnseenBatches, gallery: Gallery | None = None, own: str = ""
) -> dict[str, Evaluation]:
    """Return each model's scores, those of "float" being the reference of the others, in one pass over the images.

    The gallery looks at every batch, with the logits of the float model and of the model `own`.
    """
    task = task_of(models["float"])
    tallies = {name: Tally(task) for name in models}
    bar = progress_bar(len(batches.rows), f"Running {len(models)} models on the same images", "image")
    for batch, logits in run_together(models, batches):
        for name, tally in tallies.items():
            tally.add(logits[name], batch.labels, None if name == "float" else logits["float"])
        if gallery is not None:
            gallery.add(batch, logits["float"], logits[own])
        bar.update(len(batch))
    bar.close()
    return {name: tally.evaluation() for name, tally in tallies.items()}


def compare(
    models: Mapping[str, PreTrainedModel],
    scores: Mapping[str, Evaluation],
    batches: UnseenBatches,
    dataset: str,
    split: str | None,
    times: Mapping[str, float] | None = None,
) -> Comparison:
    """Return the comparison of models whose scores on `batches`, and milliseconds per image, were measured."""
    task = task_of(models["float"])
    contenders = tuple(
        Contender(name, saved_bytes(model) / 1e6, (times or {}).get(name), scores[name])
        for name, model in models.items()
    )
    left_out = batches.left_out if batches.served.complete else None
    return Comparison(
        contenders, dataset, split, name_machine(), left_out, task.accuracy_name, task.divergence_name,
        task.accuracy_metric, task.divergence_metric,
    )  # fmt: skip
