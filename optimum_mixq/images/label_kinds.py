# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What the labels of a model's images are: its classes, the source's own, or what another file registers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from optimum_mixq.architectures.backbones import is_backbone
from optimum_mixq.images.labels import LabelReader, label_reader, own_label_reader
from optimum_mixq.images.preparation import Preparation
from optimum_mixq.images.samples import LABEL_COLUMNS


class LabelKind(ABC):
    """How labels of one kind are found, read and prepared together with their images."""

    columns: tuple[str, ...] = LABEL_COLUMNS  # where a data set has them, the most usual name first

    @abstractmethod
    def handles(self, model: PreTrainedModel) -> bool:
        """Return whether the images of this model have such labels."""

    @abstractmethod
    def reader(
        self, model: PreTrainedModel, feature: Any = None, label_names: Mapping[Any, str | int] | None = None
    ) -> LabelReader:
        """Return what reads a source's labels; the arguments are those of `label_reader`."""

    def preparation(
        self, model: PreTrainedModel, processor: BaseImageProcessor | None, description: str
    ) -> Preparation:
        """Return what makes pixel values of images, and has labels follow them."""
        return Preparation(model, processor, description)

    def count_classes(self, model: PreTrainedModel) -> int:
        """Return how many classes of the model the labels name; 0 where they are the source's own."""
        return int(model.config.num_labels)


_kinds: list[LabelKind] = []


def register_label_kind(kind: type[LabelKind]) -> type[LabelKind]:
    """Add a kind of labels. The one registered last is asked first."""
    _kinds.insert(0, kind())
    return kind


def label_kind_of(model: PreTrainedModel) -> LabelKind:
    """Return the kind of labels that the images of a model have."""
    return next(kind for kind in _kinds if kind.handles(model))


@register_label_kind
class Classes(LabelKind):
    """One class, several, or numbers for each image."""

    def handles(self, model: PreTrainedModel) -> bool:
        return True

    def reader(
        self, model: PreTrainedModel, feature: Any = None, label_names: Mapping[Any, str | int] | None = None
    ) -> LabelReader:
        return label_reader(model.config, feature, label_names)


@register_label_kind
class OwnClasses(LabelKind):
    """The source's own classes, for a model without a classifier."""

    def handles(self, model: PreTrainedModel) -> bool:
        return is_backbone(model)

    def reader(
        self, model: PreTrainedModel, feature: Any = None, label_names: Mapping[Any, str | int] | None = None
    ) -> LabelReader:
        return own_label_reader(feature, label_names)

    def count_classes(self, model: PreTrainedModel) -> int:
        return 0
