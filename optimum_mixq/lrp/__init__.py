# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Layer-wise relevance propagation: rules, and their installation in a model."""
