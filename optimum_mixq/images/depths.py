# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Labels of depth estimation: none. What a source has beside its images is not read."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from optimum_mixq.architectures.further import serves
from optimum_mixq.images.label_kinds import LabelKind, register_label_kind
from optimum_mixq.images.labels import LabelReader


@register_label_kind
class NoDepths(LabelKind):
    """Models for depth are compared with the float model alone: data sets differ in unit, sign and what is missing."""

    columns = ()

    def handles(self, model: PreTrainedModel) -> bool:
        return serves(model, "depth-estimation")

    def reader(
        self, model: PreTrainedModel, feature: Any = None, label_names: Mapping[Any, str | int] | None = None
    ) -> LabelReader:
        return LabelReader(lambda value: None)

    def count_classes(self, model: PreTrainedModel) -> int:
        return 0
