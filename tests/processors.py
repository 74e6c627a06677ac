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
