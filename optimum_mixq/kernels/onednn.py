# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Products on a CPU: oneDNN's, the fastest that there is."""

import torch
from torch import Tensor

from optimum_mixq.kernels.contract import Activation, IntegerProduct, Kernel


class OneDNNKernel(Kernel):
    """uint8 times int8 in oneDNN, which scales, and computes GELU, while the sums are in registers."""

    def __init__(self, product: IntegerProduct) -> None:
        super().__init__(product)
        self._operand = torch.ops.onednn.qlinear_prepack(product.operand.contiguous(), None)  # opaque (C, O)
        self._zero_points = torch.zeros(self.out_features, dtype=torch.int32)

    @classmethod
    def supports(cls, device: torch.device, bits: int) -> bool:
        # Without VNNI an x86 CPU sums pairs in int16, which saturates.
        return device.type == "cpu" and torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()

    def multiply(self, codes: Tensor, dtype: torch.dtype, activation: Activation) -> Tensor:
        if codes.numel() == 0:  # oneDNN would answer with two dimensions, whatever the codes have (torch 2.13)
            return codes.new_empty((*codes.shape[:-1], self.out_features), dtype=dtype)
        if dtype not in (torch.float32, torch.bfloat16):
            return self.multiply(codes, torch.float32, activation).to(dtype)
        return torch.ops.onednn.qlinear_pointwise(
            codes, 1.0, 0, self._operand, self.scale, self._zero_points, self.bias, 1.0, 0, dtype, activation, [],
            "none",
        )  # fmt: skip

    def operand(self) -> Tensor:
        return self._operand.to_dense().t().contiguous()
