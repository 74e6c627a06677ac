# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Stage 1: how much of the output passes through each unit."""
