# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Without a GPU, Triton's kernels run in its interpreter: import this first, since Triton asks when it is imported."""

import os

import torch


if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
