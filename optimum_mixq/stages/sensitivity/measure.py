# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What each bit-width costs each unit, by whichever method is asked for."""

from dataclasses import replace

from optimum_mixq.architectures.measuring import image_size_of
from optimum_mixq.artifacts import SensitivityTable
from optimum_mixq.images.fingerprints import fingerprint_inputs
from optimum_mixq.stages.sensitivity.registry import SensitivityInputs, method_of, metric_names


def measure_sensitivity(
    inputs: SensitivityInputs, method: str = "measured", fingerprint: dict[str, str] | None = None
) -> SensitivityTable:
    """Return the table that a method measures, with the fingerprint of what it depends on.

    Without one it is made from the inputs, which do not say how `inputs.calibrate` works.
    """
    if not inputs.batches:
        raise ValueError("There are no images to measure sensitivity on.")
    known = metric_names(method)
    if inputs.metric not in known:
        raise ValueError(
            f"Expected metric to be one of {', '.join(known)} with sensitivity='{method}', found {inputs.metric!r}."
        )
    table = method_of(method).measure(inputs, fingerprint or mark_sensitivity(inputs, method))
    return replace(table, image_size=image_size_of(batch.pixel_values for batch in inputs.batches))


def mark_sensitivity(inputs: SensitivityInputs, method: str = "measured") -> dict[str, str]:
    """Return a fingerprint of the weights, the images and all else that the inputs say."""
    names = ("baseline", "metric", "temperature", "seed")
    settings = {"method": method, **method_of(method).settings(), **{name: getattr(inputs, name) for name in names}}
    return fingerprint_inputs(inputs.model, inputs.batches, settings)
