# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Stage 2: what each unit's bits cost the network, by one of several methods."""

# Each registers what it holds.
from optimum_mixq.stages.sensitivity import first_order, fisher, gradients, hessian_trace, metrics, swapping  # noqa: F401
from optimum_mixq.stages.sensitivity.registry import method_names, metric_names, register_method, register_metric


__all__ = ["method_names", "metric_names", "register_method", "register_metric"]
