# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""`MixQQuantizer`: from a model and a few images to a packed model on disk or on the Hub."""

from optimum_mixq.quantizer.mixq import SWEEP, MixQQuantizer


__all__ = ["SWEEP", "MixQQuantizer"]
