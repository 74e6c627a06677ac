# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Kernels for NVIDIA GPUs, written in Triton, which is imported when the first product asks for it."""

from optimum_mixq.kernels.triton.attention_kernel import TritonAttention
from optimum_mixq.kernels.triton.kernel import TritonKernel


__all__ = ["TritonAttention", "TritonKernel"]
