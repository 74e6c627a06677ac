# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What the processor that tests run on can do."""

import platform

import pytest
import torch


X86 = platform.machine() in ("x86_64", "AMD64")
# An x86 processor without VNNI adds two products of uint8 and int8 in 16 bits, and engines let that saturate.
SATURATES = X86 and not torch.cpu._is_vnni_supported()
WHY = "engines saturate sums of 8-bit products without VNNI"
needs_exact_sums = pytest.mark.skipif(SATURATES, reason=WHY)
# Stored logits are from one with AVX-512. Another sums in another order, a value between two codes may go to either,
# and that moves logits as much as some tensors do that are read wrongly: a looser comparison would say nothing.
sums_as_stored = pytest.mark.skipif(
    X86 and torch.backends.cpu.get_cpu_capability() != "AVX512",
    reason="logits were stored on a processor with AVX-512",
)
