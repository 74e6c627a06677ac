# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Modules that run with what they derive from their buffers, such as a kernel."""

from abc import ABC, abstractmethod

from torch import nn


class PreparedModule(nn.Module, ABC):
    """A module whose `renew` is called once its buffers have changed: by a move, a cast, or a loaded checkpoint."""

    @abstractmethod
    def renew(self) -> None:
        """Build anew what is derived from the buffers."""

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        self.renew()
        return self

    def _load_from_state_dict(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        super()._load_from_state_dict(*args, **kwargs)
        self.renew()
