# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What a saved configuration tells of how the model was made."""

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.images.batches import fingerprint


PACKAGES = ("optimum-mixq", "transformers", "torch")


def write_record(
    model: PreTrainedModel, calibration_images: Sequence[Tensor], dataset_name: str | None
) -> dict[str, Any]:
    """Return the name of the float model, a digest of the calibration images, and the packages' versions."""
    digests = [fingerprint(image) for batch in calibration_images for image in batch]
    name = model.name_or_path
    return {
        # The path of somebody's folder tells nobody else anything.
        "base_model": name if name and not Path(name).exists() else None,
        "calibration": {
            "dataset": dataset_name,
            "images": len(digests),
            "fingerprint": hashlib.sha256("".join(digests).encode()).hexdigest()[:16],
        },
        "versions": {package: version(package) for package in PACKAGES},
    }
