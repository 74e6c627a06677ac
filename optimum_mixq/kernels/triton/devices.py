# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Where Triton launches a kernel: on the current device, whatever device its tensors are on."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def device_of(values: Tensor) -> AbstractContextManager[object]:
    """Return a context in which the GPU of a tensor is the current one; the interpreter needs none."""
    return torch.cuda.device(values.device) if values.is_cuda else nullcontext()
