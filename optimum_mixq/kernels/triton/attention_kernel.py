# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Attention on an NVIDIA GPU: one pass from query, key and value to the output."""

import torch
from torch import Tensor

from optimum_mixq.kernels.attention import AttentionKernel
from optimum_mixq.kernels.contract import OPERAND_BITS
from optimum_mixq.kernels.triton.kernel import TritonKernel


# A tile of queries, one of keys and one of values have to fit shared memory.
LARGEST_HEAD = 256
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class TritonAttention(AttentionKernel):
    """Products on tensor cores; operands are rounded, and scores become powers, while they are in registers."""

    @classmethod
    def supports(cls, device: torch.device) -> bool:
        return TritonKernel.supports(device, OPERAND_BITS)

    def serves(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
        tensors = [query, key, value] if mask is None else [query, key, value, mask]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return False
        here = self.grids.scale.device
        return query.shape[-1] <= LARGEST_HEAD and all(
            tensor.device == here and tensor.dtype in DTYPES for tensor in tensors
        )

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dtype: torch.dtype
    ) -> Tensor:
        from optimum_mixq.kernels.triton.attention import attend

        return attend(query, key, value, mask, self.grids, scaling, dtype)
