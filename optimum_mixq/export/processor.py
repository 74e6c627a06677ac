# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What this machine's processor makes of products of 8-bit integers in an engine."""

import platform

import torch


def saturates() -> bool:
    """Return whether engines let sums of two products of uint8 and int8 saturate here: on x86 without VNNI."""
    return platform.machine() in ("x86_64", "AMD64") and not torch.cpu._is_vnni_supported()
