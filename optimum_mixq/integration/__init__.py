# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The plug into transformers."""
