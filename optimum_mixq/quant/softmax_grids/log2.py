# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Powers of two, as FQ-ViT has them (arXiv 2111.13824, section 3.3): a product with one is a shift of bits."""

from optimum_mixq.quant.softmax_grids.base import register_softmax_grid
from optimum_mixq.quant.softmax_grids.logarithmic import LogGrid


@register_softmax_grid
class Log2(LogGrid):
    """One step per octave at every width."""

    name = "log2"

    @property
    def steps(self) -> float:
        return 1
