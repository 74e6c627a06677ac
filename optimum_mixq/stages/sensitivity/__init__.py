# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Stage 2: what each unit's bits cost the network."""
