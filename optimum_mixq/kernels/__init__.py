# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Integer matrix products: one class for each way of multiplying, chosen by device and bits. Knows only torch.

`prepare_kernel(product)` returns the first kernel of the registry that supports the product; `register_kernel` puts
another one before those that are there. `prepare_attention(grids)` and `register_attention_kernel` do the same for
attention in one pass, which few devices have.
"""

from optimum_mixq.kernels.attention import AttentionGrids, AttentionKernel
from optimum_mixq.kernels.contract import OPERAND_BITS, Activation, IntegerProduct, Kernel, Rounding, WeightCodes
from optimum_mixq.kernels.int_mm import IntMMKernel
from optimum_mixq.kernels.onednn import OneDNNKernel
from optimum_mixq.kernels.operators import integer_linear, integer_product
from optimum_mixq.kernels.reference import ReferenceKernel
from optimum_mixq.kernels.registry import (
    choose_kernel,
    prepare_attention,
    prepare_kernel,
    register_attention_kernel,
    register_kernel,
)
from optimum_mixq.kernels.triton import TritonAttention, TritonKernel


__all__ = [
    "OPERAND_BITS",
    "Activation",
    "AttentionGrids",
    "AttentionKernel",
    "IntMMKernel",
    "IntegerProduct",
    "Kernel",
    "OneDNNKernel",
    "ReferenceKernel",
    "Rounding",
    "TritonAttention",
    "TritonKernel",
    "WeightCodes",
    "choose_kernel",
    "integer_linear",
    "integer_product",
    "prepare_attention",
    "prepare_kernel",
    "register_attention_kernel",
    "register_kernel",
]
