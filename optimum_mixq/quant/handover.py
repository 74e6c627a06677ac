# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Codes instead of numbers between a module and the only reader of its output."""

from typing import Protocol

import torch
from torch import Tensor

from optimum_mixq.kernels import Kernel, Rounding


class Reader(Protocol):
    """What a handover asks of the reader, a `PackedLinear` or a `JointProduct`."""

    handover: "Handover | None"

    def ready_kernel(self) -> Kernel: ...

    def rounding(self) -> Rounding: ...


class Handover:
    """The way from a module to the one reader of its output, both of which keep it.

    Where the reader's kernel can, the module puts out the reader's codes, uint8, which the reader takes as they are.
    They say nothing of the numbers' dtype, in which the reader has to put out its own: it is kept here meanwhile.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.dtype = torch.float32
        reader.handover = self

    def rounding_of(self, numbers: Tensor) -> Rounding | None:
        """Return how to round these numbers, or None where they are to be handed over themselves.

        An exported program cannot hold kernels that put out codes. The reader may have left; a model that is spread
        over devices may have its reader on another one.
        """
        if torch.compiler.is_exporting() or self.reader.handover is not self:
            return None
        if not self.reader.ready_kernel().puts_out_codes:
            return None
        rounding = self.reader.rounding()
        return rounding if rounding.multiplier.device == numbers.device else None

    def pass_on(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        """Return codes, uint8, of numbers that would have this dtype."""
        self.dtype = dtype
        return codes
