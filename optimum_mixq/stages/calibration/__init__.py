# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Stage 4: grids and rounded weights, block after block."""
