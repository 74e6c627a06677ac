# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Products wherever torch runs: the equation itself, exact and slow."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from optimum_mixq.kernels.contract import Activation, IntegerProduct, Kernel


class ReferenceKernel(Kernel):
    """The same integers as float32: on every device, exact while sums stay below 2^24."""

    transparent = True

    def __init__(self, product: IntegerProduct) -> None:
        super().__init__(product)
        self._operand = product.operand.float()
        self._knows_autocast = torch.amp.is_autocast_available(product.operand.device.type)

    @classmethod
    def supports(cls, device: torch.device, bits: int) -> bool:
        return True

    def multiply(self, codes: Tensor, dtype: torch.dtype, activation: Activation) -> Tensor:
        with self._exactly():
            products = F.linear(codes.float(), self._operand) * self.scale + self.bias
        return (F.gelu(products) if activation == "gelu" else products).to(dtype)

    def _exactly(self) -> AbstractContextManager[object]:
        """Return a context in which sums are not rounded: autocast would."""
        device = self._operand.device.type
        return torch.autocast(device, enabled=False) if self._knows_autocast else nullcontext()

    def operand(self) -> Tensor:
        return self._operand.to(torch.int8)
