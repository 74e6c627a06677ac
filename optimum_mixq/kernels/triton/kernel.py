# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Products on an NVIDIA GPU: one pass from codes to numbers, or to the codes of the next product."""

import functools
import importlib.util

import torch
from torch import Tensor

from optimum_mixq.kernels.contract import Activation, IntegerProduct, Kernel, Rounding
from optimum_mixq.kernels.triton.weights import hold_weight


# GPUs that Triton 3 compiles for: Ampere and later.
LEAST_CAPABILITY = (8, 0)


class TritonKernel(Kernel):
    """int8 times int8 on tensor cores, with scale, bias, GELU and rounding while the sums are in registers.

    Weights of four bits and fewer stay packed in memory, two or four codes to a byte, and become operands on the way.
    """

    puts_out_codes = True

    def __init__(self, product: IntegerProduct) -> None:
        super().__init__(product)
        self._weight = hold_weight(product)
        self._shift = 128 * product.operand.sum(1, dtype=torch.int32)

    @classmethod
    def supports(cls, device: torch.device, bits: int) -> bool:
        return device.type == "cuda" and has_triton() and _is_nvidia(device)

    def multiply(self, codes: Tensor, dtype: torch.dtype, activation: Activation) -> Tensor:
        from optimum_mixq.kernels.triton.linear import multiply

        return multiply(codes, self._weight, self._shift, self.scale, self.bias, dtype, activation)

    def multiply_to_codes(self, codes: Tensor, rounding: Rounding, activation: Activation) -> Tensor:
        from optimum_mixq.kernels.triton.linear import multiply

        return multiply(codes, self._weight, self._shift, self.scale, self.bias, torch.uint8, activation, rounding)

    def normalize_to_codes(
        self, values: Tensor, weight: Tensor, bias: Tensor, eps: float, rounding: Rounding
    ) -> Tensor:
        from optimum_mixq.kernels.triton.norm import normalize_to_codes

        return normalize_to_codes(values, weight, bias, eps, rounding)

    def operand(self) -> Tensor:
        return self._weight.operand(self.scale)


@functools.cache
def has_triton() -> bool:
    """Return whether Triton is installed: CUDA builds of torch bring it, others do not."""
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _is_nvidia(device: torch.device) -> bool:
    # AMD's GPUs are "cuda" to torch too; there the kernels were neither compiled nor tried.
    if torch.version.hip is not None or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY
