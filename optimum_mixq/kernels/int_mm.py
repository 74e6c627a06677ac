# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Products on a GPU: torch's own int8 product of matrices."""

import torch
import torch.nn.functional as F
from torch import Tensor

from optimum_mixq.kernels.contract import Activation, IntegerProduct, Kernel


# CUDA's _int_mm wants more than 16 rows, and multiples of 8 on both other sides (torch 2.0 to 2.13,
# aten/src/ATen/native/cuda/Blas.cpp, _int_mm_out_cuda).
LEAST_ROWS, ALIGNMENT = 17, 8


class IntMMKernel(Kernel):
    """int8 times int8 in `torch._int_mm`, where there is no Triton.

    Codes are shifted by 128 to become signed, and sums get 128 times the operand's row sums back. The operand is
    padded once; codes only where their columns or rows do not fit.
    """

    transparent = True

    def __init__(self, product: IntegerProduct) -> None:
        super().__init__(product)
        self._missing_columns = -self.in_features % ALIGNMENT
        # (O', C'), multiplied as its transpose: cuBLAS is several times slower with a row-major right side.
        self._operand = F.pad(
            product.operand, (0, self._missing_columns, 0, -self.out_features % ALIGNMENT)
        ).contiguous()
        self._shift = 128 * product.operand.sum(1, dtype=torch.int32)

    @classmethod
    def supports(cls, device: torch.device, bits: int) -> bool:
        return device.type == "cuda"

    def multiply(self, codes: Tensor, dtype: torch.dtype, activation: Activation) -> Tensor:
        rows = codes.flatten(0, -2).bitwise_xor(128).view(torch.int8)  # code - 128
        count = rows.shape[0]
        if self._missing_columns or count < LEAST_ROWS:
            rows = F.pad(rows, (0, self._missing_columns, 0, max(LEAST_ROWS - count, 0)))
        sums = torch._int_mm(rows, self._operand.t())[:count, : self.out_features]
        products = (sums + self._shift) * self.scale + self.bias
        outputs = F.gelu(products) if activation == "gelu" else products
        return outputs.to(dtype).view(*codes.shape[:-1], self.out_features)

    def operand(self) -> Tensor:
        return self._operand[: self.out_features, : self.in_features].contiguous()
