# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Has a layer mend what the layers before it did to the hidden states that its output is added to."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from optimum_mixq.architectures.block_run import BlockRun
from optimum_mixq.architectures.describe import Unit
from optimum_mixq.config import CalibrationOptions


# With so many calibration images, weights that mend what came before them are held back as all others are.
IMAGES_OF_RIDGE = 32


def loosened(options: CalibrationOptions, images: int) -> CalibrationOptions:
    """Return the options with which layers mend what came before them, from so many images.

    What a weight has to make up for is more than its own input's rounding, and with more images less of what they show
    is chance: the ridge falls with the root of their number.
    """
    return replace(options, ridge=options.ridge * math.sqrt(IMAGES_OF_RIDGE / images))


def mend_residuals(
    run: BlockRun, unit: Unit, targets: Sequence[list[Tensor]], float_residuals: Mapping[str, Sequence[Tensor]]
) -> list[list[Tensor]]:
    """Return the targets of a unit's layers, batch by batch, moved by what the hidden states miss.

    With r + y what the float model adds up and r' the quantized model's hidden states, the target of the layer that
    puts out y becomes r + y - r': it also mends the errors of all layers before, as far as its quantized input tells
    them. `float_residuals` holds r by the LayerNorm that reads it.

    # Unlike the paper, and unlike ERQ (arXiv 2407.06794): there a layer mends its own error alone.
    """
    norms = {residual.layer: residual.norm for residual in run.block.residuals}
    return [
        _mend(run, norms[name], target, float_residuals[norms[name]]) if name in norms else target
        for name, target in zip(unit.modules, targets, strict=True)
    ]


def _mend(run: BlockRun, norm: str, target: Sequence[Tensor], wanted: Sequence[Tensor]) -> list[Tensor]:
    found = [arguments[0] for arguments in run.inputs_of(norm)]
    for hidden, output in zip(wanted, target, strict=True):
        if hidden.shape != output.shape:
            raise ValueError(
                f"Expected the layer of a residual to put out what {norm} reads, {tuple(hidden.shape)}, found "
                f"{tuple(output.shape)}. The family's file declares `residuals`: leave it out there."
            )
    return [output + (hidden - own) for output, hidden, own in zip(target, wanted, found, strict=True)]
