# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""How much of the answer passes through each unit, and which pixels it came from."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq.architectures.describe import Architecture, describe
from optimum_mixq.architectures.rules import STABILISER
from optimum_mixq.architectures.watching import watched_units
from optimum_mixq.artifacts import LayerRelevance
from optimum_mixq.images.batches import Batch
from optimum_mixq.quant.grids import require_finite
from optimum_mixq.stages.relevance.propagation import relevance_rules
from optimum_mixq.stages.relevance.scores import Score, require_score
from optimum_mixq.tasks import run_model, task_of
from optimum_mixq.utils.progress import progress_bar


# What is propagated at once. Images do not mix, so that this changes memory and time alone: with more, a ViT-B's
# tensors outgrow what the allocator keeps (32 MB in glibc), and each has to be mapped anew.
IMAGES_AT_ONCE = 8
# Largest relative deviation of a block's relevance from what was started with.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


def measure_relevance(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    score: str = "absolute",
    images: int | None = None,
    stabiliser: float = STABILISER,
) -> LayerRelevance:
    """Return each unit's share of the relevance, averaged over the images of `batches`; the model is left as it is.

    Relevance starts at the label where there is one, else at the prediction, and at the embedding of a model without a
    classifier (`Task.explained`). A unit's score is, per
    image, the sum over its input of |R| ("absolute"), of R ("signed", then its absolute value), the mean of |R|
    ("mean"), the sum of the positive part of gradient * R ("gradient"; Chefer et al. 2021, section 3.2), or what a
    registered score returns, divided by the sum over all units. `images` lets the progress bar show the time left.
    `stabiliser` is the share of absolute contributions that is added to sums whose terms may cancel; 0 is the rule of
    the reference implementation.
    """
    way = require_score(score)
    architecture = _require_supported(model)
    units = [unit.name for unit in architecture.units]
    totals, count = torch.zeros(len(units), dtype=torch.float64), 0
    drift: dict[str, float] = {block.name: 0.0 for block in architecture.blocks}
    bar = progress_bar(images, "Relevance", "image")
    for batch in (part for whole in batches for part in whole.split(IMAGES_AT_ONCE)):
        table, errors = measure_shares(model, architecture, batch, way, stabiliser)
        totals, count = totals + table.sum(1), count + table.shape[1]
        drift = {name: max(error, errors[name]) for name, error in drift.items()}
        bar.update(table.shape[1])
    bar.close()
    if count == 0:
        raise ValueError("There are no images to measure relevance on.")
    _warn_of_drift(drift, TOLERANCE[model.dtype])
    shares = dict(zip(units, (totals / count).tolist(), strict=True))
    return LayerRelevance(shares, max(drift.values()), count, score)


def measure_shares(
    model: PreTrainedModel, architecture: Architecture, batch: Batch, score: Score, stabiliser: float
) -> tuple[Tensor, dict[str, float]]:
    """Return each unit's share of each image's relevance (units, B), and the blocks' conservation errors."""
    pixels = batch.pixel_values.to(model.device, model.dtype)
    gradients: dict[str, list[Tensor]] = {}
    if score.needs_gradient:
        gradients = _plain_gradients(model, architecture, pixels, batch.labels)
    scores: dict[str, Tensor] = {}

    def watch(unit: str, tensors: Sequence[Tensor]) -> None:
        for position, tensor in enumerate(tensors):

            def take(relevance: Tensor, position: int = position) -> None:
                factor = gradients[unit][position] if gradients else None
                value = _score(score, relevance, factor, len(pixels))
                scores[unit] = scores[unit] + value if unit in scores else value

            tensor.register_hook(take)

    sums: dict[str, Tensor] = {}
    after: dict[str, Tensor] = {}
    with relevance_rules(model, watch, stabiliser), _block_inputs(model, architecture, sums, after) as start_tensor:
        logits = run_model(model, pixels)
    start = _start(model, logits, batch.labels)
    torch.autograd.grad(logits, start_tensor, start)
    table = torch.stack([scores[unit.name] for unit in architecture.units]).abs()
    table = table / table.sum(0).clamp(min=torch.finfo(table.dtype).tiny)
    # Where blocks are tapped, some relevance passes by those behind: at a block's input is what reached its output.
    first = architecture.blocks[0].name
    expected = {name: after[name] if architecture.taps and name != first else 1.0 for name in sums}
    return table, {name: float((total - expected[name]).abs().max()) for name, total in sums.items()}


def explain(model: PreTrainedModel, pixel_values: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return heat maps (B, H, W): the relevance of each pixel of images (B, C, H, W) for their classes.

    A map sums to one. Without labels (B,) the predicted class is explained, and of a model without a classifier the
    length of the embedding.
    """
    _require_supported(model)
    pixels = pixel_values.detach().to(model.device, model.dtype).clone().requires_grad_()
    with relevance_rules(model):
        logits = run_model(model, pixels)
    (relevance,) = torch.autograd.grad(logits, pixels, _start(model, logits, labels))
    return relevance.sum(1)


def _plain_gradients(
    model: PreTrainedModel, architecture: Architecture, pixels: Tensor, labels: Tensor | None
) -> dict[str, list[Tensor]]:
    """Return the gradient of the explained logit at what enters each unit."""
    watched: dict[str, Sequence[Tensor]] = {}

    def watch(unit: str, tensors: Sequence[Tensor]) -> None:
        watched[unit] = tensors

    with watched_units(model, watch), _block_inputs(model, architecture, {}, {}):
        logits = run_model(model, pixels)
    flat = [tensor for tensors in watched.values() for tensor in tensors]
    found = iter(torch.autograd.grad(logits, flat, _start(model, logits, labels)))
    return {unit: [next(found) for _ in tensors] for unit, tensors in watched.items()}


def _score(score: Score, relevance: Tensor, gradient: Tensor | None, images: int) -> Tensor:
    """Return one number per image (B,), on the CPU in float64; windows of one image lie side by side."""
    beside = None if gradient is None else gradient.reshape(images, -1)
    return score.function(relevance.reshape(images, -1), beside).double().cpu()


@contextmanager
def _block_inputs(
    model: PreTrainedModel, architecture: Architecture, sums: dict[str, Tensor], after: dict[str, Tensor]
) -> Iterator[list[Tensor]]:
    """Cut the graph before the first block, and fill `sums` and `after` with relevance per image (B,), by block.

    The one is that at the block's input, the other that at its output.
    Yields a list that will hold the first block's input.
    """
    start: list[Tensor] = []
    hooks = []
    for block in architecture.blocks:

        def enter(_: nn.Module, arguments: tuple[Any, ...], name: str = block.name) -> tuple[Any, ...]:
            hidden = arguments[0]
            if not start:
                hidden = hidden.detach().requires_grad_()
                start.append(hidden)
            else:  # a view, without what else reads the tensor
                hidden = hidden.view_as(hidden)

            def add_up(relevance: Tensor) -> None:
                sums[name] = relevance.flatten(1).sum(1)

            hidden.register_hook(add_up)
            return (hidden, *arguments[1:])

        def leave(_: nn.Module, __: tuple, output: Any, name: str = block.name) -> None:
            def add_up(relevance: Tensor) -> None:
                after[name] = relevance.flatten(1).sum(1)

            (output[0] if isinstance(output, tuple) else output).register_hook(add_up)

        module = model.get_submodule(block.module)
        hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield start
    finally:
        for hook in hooks:
            hook.remove()


def _start(model: PreTrainedModel, logits: Tensor, labels: Tensor | None) -> Tensor:
    """Return what relevance starts as: the share (B, ...) of each logit in what is explained."""
    require_finite(logits, "the model's logits")
    return task_of(model).explained(logits, labels)


def _warn_of_drift(drift: dict[str, float], tolerance: float) -> None:
    # Relevance reaches the last block first.
    broken = [name for name in reversed(drift) if not drift[name] <= tolerance]
    if broken:
        warnings.warn(
            f"Relevance is not conserved: at the input of '{broken[0]}' its sum is off by {drift[broken[0]]:.1e} "
            f"(tolerance {tolerance:.0e}). The scores of units below it are less certain; is there an operation in "
            "the model that no rule covers?",
            stacklevel=3,
        )


def _require_supported(model: PreTrainedModel) -> Architecture:
    architecture = describe(model)
    if model.dtype not in TOLERANCE:
        raise ValueError(
            f"Expected a model in float32 to propagate relevance in, found {model.dtype}: sums of small relevances "
            "vanish in it. Load it with dtype=torch.float32."
        )
    if getattr(model, "quantization_method", None) is not None:
        raise ValueError("Expected a float model, found one that is quantized already. Load the float checkpoint.")
    return architecture
