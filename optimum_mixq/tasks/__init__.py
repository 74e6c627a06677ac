# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What a model's output is worth: one file for each kind of head, found by the model's class and configuration."""

# Each registers its task; the one imported last is asked first.
from optimum_mixq.tasks import single_label  # noqa: F401, I001
from optimum_mixq.tasks import multi_label, regression  # noqa: F401
from optimum_mixq.tasks import depth_estimation, features, object_detection, semantic_segmentation  # noqa: F401
from optimum_mixq.tasks.base import Task, auto_class_named, register_task, run_model, task_of


__all__ = ["Task", "auto_class_named", "register_task", "run_model", "task_of"]
