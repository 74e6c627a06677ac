# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What models are exported to: one file for each engine.

`target_of(name)` returns one; `register_target` adds another.
"""

from optimum_mixq.export.targets.base import TARGETS, Engine, Target, register_target, target_names, target_of
from optimum_mixq.export.targets.onnx import OnnxTarget
from optimum_mixq.export.targets.openvino import OpenVINOTarget


__all__ = [
    "TARGETS",
    "Engine",
    "OnnxTarget",
    "OpenVINOTarget",
    "Target",
    "register_target",
    "target_names",
    "target_of",
]
