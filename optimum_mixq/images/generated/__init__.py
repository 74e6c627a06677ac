# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Images that are made from the model alone, for those who have none."""

# Each registers its generators.
from optimum_mixq.images.generated import noise, patch_similarity  # noqa: F401
from optimum_mixq.images.generated.base import generator_names, open_generated


__all__ = ["generator_names", "open_generated"]
