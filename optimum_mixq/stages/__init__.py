# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The stages of the method, a folder or file each. None imports another; `pipeline.py` calls them in order."""
