# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""SigLIP 2 of any resolution: refused, since no image of pixels goes into it."""

from optimum_mixq.architectures.registry import refuse_type


for model_type in ("siglip2", "siglip2_vision_model"):
    refuse_type(
        model_type,
        "it takes images that its processor has cut into patches, with a mask and each image's height and width, and "
        "not pixel values alone. Checkpoints of SigLIP 2 for one resolution are of type 'siglip': use one of these.",
    )
