# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What a block's distance from the float model's block is. A loss is a class in a file, registered under its name."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.architectures.describe import Block
from optimum_mixq.utils.checks import require_one_of


class Loss(ABC):
    """Compares the hidden states after a block with the float model's.

    It is made once, from the float model and all images that blocks learn and are judged on, batch by batch.
    """

    name: ClassVar[str]

    @classmethod
    def objection(cls, model: PreTrainedModel) -> str | None:
        """Return why the loss cannot be measured for a model and what to set instead, or None if it can."""
        return None

    @abstractmethod
    def __init__(self, model: PreTrainedModel, images: Sequence[Tensor], generator: torch.Generator) -> None:
        """Measure what the loss needs of the float model; what is random comes from the generator."""

    @abstractmethod
    def measure(self, block: Block, rows: Tensor, found: Tensor, expected: Tensor) -> Tensor:
        """Return the loss, a scalar, of hidden states (B, ...) after a block; `rows` (B,) numbers their images."""


LOSSES: dict[str, type[Loss]] = {}

Kind = TypeVar("Kind", bound=type[Loss])


def register_loss(loss: Kind) -> Kind:
    """Add a loss under its name; of two with the same name, the one registered last is used."""
    LOSSES[loss.name] = loss
    return loss


def loss_names() -> tuple[str, ...]:
    """Return the names that the option `reconstruction_loss` may have."""
    return tuple(sorted(LOSSES))


def loss_of(name: str) -> type[Loss]:
    """Return the loss of a name; a name that nobody registered raises a ValueError."""
    require_one_of("reconstruction_loss", loss_names(), name)
    return LOSSES[name]


@register_loss
class OutputLoss(Loss):
    """The squared error of the block's output, relative to how far the float model's lies from its mean."""

    name = "output"

    def __init__(self, model: PreTrainedModel, images: Sequence[Tensor], generator: torch.Generator) -> None:
        pass

    def measure(self, block: Block, rows: Tensor, found: Tensor, expected: Tensor) -> Tensor:
        return (found - expected).square().mean() / expected.var(correction=0)
