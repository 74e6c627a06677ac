# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""LayerNorm as compiled CPU code computes it fastest: each row while it lies in the cache."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from optimum_mixq.quant.handover import Handover


Norm = TypeVar("Norm", bound=nn.LayerNorm)


class RowLayerNorm(nn.LayerNorm):
    """LayerNorm over the last dimension, which may put out the codes of what reads it.

    What torch.compile is given on a CPU is the equation,

    y = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * weight + bias.

    From torch's own operator it makes three passes over all rows (torch 2.13); from this, one, together with the
    residual sum before it and the rounding after it.
    """

    handover: Handover | None = None  # to the reader

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> "RowLayerNorm":
        """Return the same norm; its parameters are shared."""
        return _with_parameters_of(norm, cls(norm.normalized_shape, norm.eps, device="meta"))

    def to_plain(self) -> nn.LayerNorm:
        """Return torch's own module; its parameters are shared."""
        return _with_parameters_of(self, nn.LayerNorm(self.normalized_shape, self.eps, device="meta"))

    def forward(self, input: Tensor) -> Tensor:
        codes = self._codes(input)
        if codes is not None:
            return codes
        if input.device.type != "cpu" or not torch.compiler.is_compiling():
            return super().forward(input)
        rows = input.to(torch.promote_types(input.dtype, torch.float32))  # (..., C)
        share = 1 / rows.shape[-1]
        centered = rows - rows.sum(-1, keepdim=True) * share
        variance = centered.square().sum(-1, keepdim=True) * share  # (..., 1)
        return (centered * torch.rsqrt(variance + self.eps) * self.weight + self.bias).to(input.dtype)

    def _codes(self, input: Tensor) -> Tensor | None:
        """Return the codes of the output if they are to be handed over.

        torch.compile writes one kernel for norm and rounding by itself. Autocast gives the output another dtype.
        """
        if self.handover is None or torch.compiler.is_compiling():
            return None
        rounding = self.handover.rounding_of(input)
        if rounding is None or torch.is_autocast_enabled(input.device.type):
            return None
        kernel = self.handover.reader.ready_kernel()
        codes = kernel.normalize_to_codes(input, self.weight, self.bias, self.eps, rounding)
        return self.handover.pass_on(codes, input.dtype)


def can_go_by_rows(module: nn.Module) -> bool:
    """Return whether `RowLayerNorm` computes what a module does."""
    return (
        type(module) is nn.LayerNorm
        and len(module.normalized_shape) == 1
        and module.weight is not None
        and module.bias is not None
    )


def _with_parameters_of(source: nn.LayerNorm, norm: Norm) -> Norm:
    norm.weight, norm.bias = source.weight, source.bias
    return norm.train(source.training)
