# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""How the relevance at the input of a unit becomes one number per image."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


# Takes the relevance (B, elements) of a tensor that enters a unit, and where the score asks for it the gradient there,
# and returns one number per image (B,).
ScoreFunction = Callable[[Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Score:
    """A way of summing relevance. The numbers of the tensors that enter a unit add up, and their sign is dropped."""

    function: ScoreFunction
    needs_gradient: bool


SCORES: dict[str, Score] = {}


def register_score(name: str, needs_gradient: bool = False) -> Callable[[ScoreFunction], ScoreFunction]:
    """Return a decorator that adds a function as the score `name`, which `MixQConfig(score=name)` then takes.

    With `needs_gradient` the function is given the gradient of the explained logit too, at the price of one more
    forward and backward per image.
    """

    def register(function: ScoreFunction) -> ScoreFunction:
        SCORES[name] = Score(function, needs_gradient)
        return function

    return register


def score_names() -> tuple[str, ...]:
    """Return the names of all scores."""
    return tuple(SCORES)


def require_score(name: str) -> Score:
    """Return the score of this name."""
    if name not in SCORES:
        raise ValueError(f"Expected score to be one of {', '.join(SCORES)}, found {name!r}.")
    return SCORES[name]


@register_score("absolute")
def sum_absolute(relevance: Tensor, gradient: Tensor | None) -> Tensor:
    """Return the sum of |R|, in one pass."""
    return torch.linalg.vector_norm(relevance, 1, dim=1)


@register_score("signed")
def sum_signed(relevance: Tensor, gradient: Tensor | None) -> Tensor:
    """Return the sum of R."""
    return relevance.sum(1)


@register_score("mean")
def mean_absolute(relevance: Tensor, gradient: Tensor | None) -> Tensor:
    """Return the mean of |R|."""
    return sum_absolute(relevance, None).double() / relevance.shape[1]


@register_score("gradient", needs_gradient=True)
def sum_positive_products(relevance: Tensor, gradient: Tensor | None) -> Tensor:
    """Return the sum of the positive part of gradient * R (Chefer et al. 2021, section 3.2)."""
    assert gradient is not None
    return sum_absolute((gradient * relevance).clamp(min=0), None)
