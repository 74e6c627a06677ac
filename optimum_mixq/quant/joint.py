# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""One product for packed layers that read the same tensor."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from optimum_mixq.kernels import IntegerProduct, Kernel, Rounding, prepare_kernel
from optimum_mixq.quant.codes import take_codes
from optimum_mixq.quant.handover import Handover


class Member(Protocol):
    """What a joint product asks of its layers, which are `PackedLinear`."""

    weight: Tensor
    out_features: int
    activation: Any

    def product(self) -> IntegerProduct: ...

    def rounding(self) -> Rounding: ...

    def join(self, joint: "JointProduct", place: int) -> None: ...

    def leave(self) -> None: ...


class JointProduct:
    """One product for packed layers that read the same tensor, one after another, on the same grid.

    The first layer's call computes the outputs of all, and each of the others takes its own once. A layer that is
    called again, or given another tensor than the first was, computes its output itself.
    """

    def __init__(self, layers: Sequence[Member], last: int | None = None) -> None:
        """`layers` are in the order of their calls; `last` is the place of the one whose buffers change last."""
        for layer in layers:
            if layer.activation != "none":
                raise ValueError(f"Expected layers without an activation to join, found {layer.activation!r}.")
        self.layers = tuple(layers)
        self._last = len(self.layers) - 1 if last is None else last
        self._kernel: Kernel | None = None
        self.handover: Handover | None = None  # from the module before
        self._input: Tensor | None = None  # what the outputs below were computed from
        self._outputs: dict[int, Tensor] = {}  # by place of the layer; those that were not taken yet

    def join(self) -> None:
        """Let the layers' forwards ask here."""
        for place, layer in enumerate(self.layers):
            layer.join(self, place)
        self.prepare()

    def separate(self) -> None:
        """Let each layer multiply by itself again."""
        self.handover = None
        for layer in self.layers:
            layer.leave()

    @property
    def waiting(self) -> tuple[int, ...]:
        """Return the places of the layers whose outputs were computed and not taken yet."""
        return tuple(self._outputs)

    def output_of(self, place: int, input: Tensor) -> Tensor:
        """Return the output (..., O) of the layer at a place."""
        if place == 0:
            self._input, self._outputs = input, dict(enumerate(self._multiply(input)))
        output = self._outputs.pop(place, None) if self._input is input else None
        if not self._outputs:
            self._input = None
        return self._multiply(input)[place] if output is None else output

    def renew(self, place: int) -> None:
        """Forget what is derived from the layers' buffers. They change in turn: once the last has, build it again."""
        self._forget()
        if place == self._last and not self.layers[place].weight.is_meta:
            self.prepare()

    def complete_copy(self) -> None:
        """Build what is derived from the layers' buffers if all layers of a copy are there."""
        layers = self.__dict__.get("layers", ())
        if layers and all("_buffers" in layer.__dict__ and not layer.weight.is_meta for layer in layers):
            self.prepare()

    @torch.no_grad()
    def prepare(self) -> None:
        """Build the kernel from the layers' buffers."""
        self._kernel = prepare_kernel(IntegerProduct.concatenate([layer.product() for layer in self.layers]))
        self._rounding = self.layers[0].rounding()

    def ready_kernel(self) -> Kernel:
        """Return the kernel of all layers, prepared."""
        if self._kernel is None:
            self.prepare()
        assert self._kernel is not None
        return self._kernel

    def rounding(self) -> Rounding:
        """Return how an input becomes codes."""
        return self.layers[0].rounding() if self._kernel is None else self._rounding

    def _forget(self) -> None:
        self._kernel, self._input, self._outputs = None, None, {}

    def _multiply(self, input: Tensor) -> tuple[Tensor, ...]:
        kernel = self.ready_kernel()
        codes, dtype = take_codes(input, self._rounding, self.handover)
        return kernel(codes, dtype).split([layer.out_features for layer in self.layers], -1)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_kernel": None, "_input": None, "_outputs": {}}
