# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Packed models for inference engines: files that run without this package.

`export_model` converts the layers (`conversion.py`), traces the graph (`tracing.py`), lays out the weights
(`weights.py`), has a target write and load the file (`targets/`), and checks what comes out (`check.py`).
"""

from optimum_mixq.export.attention import register_attention
from optimum_mixq.export.folder import Exported, export_model
from optimum_mixq.export.targets import register_target


__all__ = ["Exported", "export_model", "register_attention", "register_target"]
