# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Which kernel a product gets, and attention: the first in a list that supports the device, and a product's bits."""

import torch

from optimum_mixq.kernels.attention import AttentionGrids, AttentionKernel
from optimum_mixq.kernels.contract import OPERAND_BITS, IntegerProduct, Kernel
from optimum_mixq.kernels.int_mm import IntMMKernel
from optimum_mixq.kernels.onednn import OneDNNKernel
from optimum_mixq.kernels.reference import ReferenceKernel
from optimum_mixq.kernels.triton import TritonAttention, TritonKernel


KERNELS: list[type[Kernel]] = [OneDNNKernel, TritonKernel, IntMMKernel, ReferenceKernel]
ATTENTION_KERNELS: list[type[AttentionKernel]] = [TritonAttention]


def register_kernel(kernel: type[Kernel]) -> None:
    """Put a kernel before all others: products that are prepared from then on get it where it supports them."""
    KERNELS.insert(0, kernel)


def choose_kernel(device: torch.device, bits: int = OPERAND_BITS) -> type[Kernel]:
    """Return the first kernel that multiplies weights of so many bits on a device."""
    return next(kernel for kernel in KERNELS if kernel.supports(device, bits))


def prepare_kernel(product: IntegerProduct, kernel: type[Kernel] | None = None) -> Kernel:
    """Return the kernel that computes a product: the one given, or the first that supports it."""
    return (kernel or choose_kernel(product.operand.device, product.bits))(product)


def register_attention_kernel(kernel: type[AttentionKernel]) -> None:
    """Put a kernel of attention before all others, for modules that are prepared from then on."""
    ATTENTION_KERNELS.insert(0, kernel)


def prepare_attention(grids: AttentionGrids) -> AttentionKernel | None:
    """Return the first kernel that supports the device of the grids; None leaves attention to torch's operations."""
    for kernel in ATTENTION_KERNELS:
        if kernel.supports(grids.scale.device):
            return kernel(grids)
    return None
