# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Memory of the process."""

import ctypes
import sys


def return_freed_memory() -> None:
    """Give what was freed back to the system, where the C library can be asked to: Linux with glibc.

    glibc keeps freed memory below memory in use. After calibration, whose new weights lie among freed activations, or
    after loading, whose kernels lie among unpacked weights, that can be as much as the model itself or more.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
