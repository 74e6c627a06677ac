# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Which kernel a product gets: the first in the list that supports its device and bits."""

import torch

from optimum_mixq.kernels.contract import OPERAND_BITS, IntegerProduct, Kernel
from optimum_mixq.kernels.int_mm import IntMMKernel
from optimum_mixq.kernels.onednn import OneDNNKernel
from optimum_mixq.kernels.reference import ReferenceKernel
from optimum_mixq.kernels.triton import TritonKernel


KERNELS: list[type[Kernel]] = [OneDNNKernel, TritonKernel, IntMMKernel, ReferenceKernel]


def register_kernel(kernel: type[Kernel]) -> None:
    """Put a kernel before all others: products that are prepared from then on get it where it supports them."""
    KERNELS.insert(0, kernel)


def choose_kernel(device: torch.device, bits: int = OPERAND_BITS) -> type[Kernel]:
    """Return the first kernel that multiplies weights of so many bits on a device."""
    return next(kernel for kernel in KERNELS if kernel.supports(device, bits))


def prepare_kernel(product: IntegerProduct, kernel: type[Kernel] | None = None) -> Kernel:
    """Return the kernel that computes a product: the one given, or the first that supports it."""
    return (kernel or choose_kernel(product.operand.device, product.bits))(product)
