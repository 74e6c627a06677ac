# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What is known of models: their structure by family, and how to walk through one."""
