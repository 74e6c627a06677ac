# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""One block and the batches that run through it: where units are given their inputs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq.architectures.describe import Block, replace_module
from optimum_mixq.architectures.replay import BlockCall, inputs_of, run_block


@dataclass(frozen=True)
class BlockRun:
    """A block of the model that is being quantized, the hidden states that it is given, and its other arguments."""

    model: PreTrainedModel
    block: Block
    call: BlockCall
    hidden: Sequence[Tensor]  # batch by batch

    def inputs_of(self, module: str) -> list[tuple[Any, ...]]:
        """Return the arguments that a module of the block is given, batch by batch."""
        return inputs_of(self.model, self.block, module, self.hidden, self.call)

    def outputs(self) -> list[Tensor]:
        """Return the hidden states after the block, batch by batch."""
        return [run_block(self.model, self.block, states, self.call) for states in self.hidden]

    @contextmanager
    def replaced(self, modules: Mapping[str, nn.Module]) -> Iterator[None]:
        """Run the block with other modules in the places of its own."""
        own = {name: self.model.get_submodule(name) for name in modules}
        place(self.model, modules)
        try:
            yield
        finally:
            place(self.model, own)


def place(model: PreTrainedModel, modules: Mapping[str, nn.Module]) -> None:
    """Put modules in the places that they are named after."""
    for name, module in modules.items():
        replace_module(model, name, module)
