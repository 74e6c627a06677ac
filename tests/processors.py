# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What the processor that tests run on can do."""

import platform

import pytest
import torch

from optimum_mixq.export.processor import saturates


X86 = platform.machine() in ("x86_64", "AMD64")
WHY = "OpenVINO lets sums of 8-bit products saturate without VNNI"
needs_exact_sums = pytest.mark.skipif(saturates(), reason=WHY)
# Stored logits are from one with AVX-512. Another sums in another order, a value between two codes may go to either,
# and that moves logits as much as some tensors do that are read wrongly: a looser comparison would say nothing.
sums_as_stored = pytest.mark.skipif(
    X86 and torch.backends.cpu.get_cpu_capability() != "AVX512",
    reason="logits were stored on a processor with AVX-512",
)
