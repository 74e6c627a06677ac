# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Numbers by which compiled graphs name the kernels that they call: both live in one process."""

import itertools
import weakref
from typing import Any


_numbers = itertools.count()
_kernels: "weakref.WeakValueDictionary[int, Any]" = weakref.WeakValueDictionary()


def give_handle(kernel: Any) -> int:
    """Return a number by which the kernel is found as long as somebody keeps it."""
    handle = next(_numbers)
    _kernels[handle] = kernel
    return handle


def find_kernel(handle: int, work: str = "multiplies") -> Any:
    """Return the kernel of a number; `work` is what a graph does with it, for the error."""
    kernel = _kernels.get(handle)
    if kernel is None:
        raise RuntimeError(
            f"This graph {work} with kernel {handle}, which this process does not hold: the graph was compiled in "
            "another process, or its model was moved, changed or deleted. Compile the model again."
        )
    return kernel
