# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Between calibration and packing: weights and grids of one block after another learn from unlabelled images."""

# Each registers its losses.
from optimum_mixq.stages.reconstruction import fisher, later, losses  # noqa: F401
from optimum_mixq.stages.reconstruction.budgets import budget_names
from optimum_mixq.stages.reconstruction.losses import loss_names


__all__ = ["budget_names", "loss_names"]
