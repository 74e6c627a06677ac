# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Takes apart what a data set gives for one row: an image, a pair of image and label, or a dict of both."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from torch.utils.data import Subset


IMAGE_COLUMNS = ("image", "img", "pixel_values")
LABEL_COLUMNS = ("label", "labels", "fine_label")
NAME_THE_COLUMN = (
    "Name it with open_images(..., image_column=...), and pass the images that it returns as the data set."
)


def label_feature(rows: Any, column: str | None = None) -> Any:
    """Return what a data set, or a part of one, knows of its labels: an object with `names`, or None."""
    features = getattr(rows, "features", None)
    if isinstance(features, Mapping):
        names = (column,) if column is not None else LABEL_COLUMNS
        return next((features[name] for name in names if name in features), None)
    if isinstance(rows, Subset):
        return label_feature(rows.dataset)
    # torchvision's data sets number their `classes`, unless a `target_transform` gives other numbers.
    classes = getattr(rows, "classes", None)
    if not isinstance(classes, (list, tuple)) or not classes or not all(isinstance(name, str) for name in classes):
        return None
    return SimpleNamespace(names=list(classes)) if getattr(rows, "target_transform", None) is None else None


def split_sample(
    sample: Any,
    name: str,
    image_column: str | None = None,
    label_column: str | None = None,
    label_columns: Sequence[str] = LABEL_COLUMNS,
) -> tuple[Any, Any]:
    """Return the image and the label, or None for a row without a label.

    Args:
        name: where the sample stands, for error messages.
        image_column: the key of the image, if the sample is a dict and the key is none of the usual ones.
        label_column: likewise the label's.
        label_columns: the usual ones.
    """
    if isinstance(sample, Mapping) and not {"bytes", "path"} & set(sample):
        keys: tuple[str, ...] = IMAGE_COLUMNS[::-1] if image_column is None else (image_column,)  # prepared ones first
        image_key = next((key for key in keys if key in sample), None)
        if image_key is None:
            raise ValueError(
                f"Expected '{keys[-1]}' in {name}, found {', '.join(map(str, sample)) or 'nothing'}. {NAME_THE_COLUMN}"
            )
        keys = (label_column,) if label_column is not None else tuple(label_columns)
        return sample[image_key], next((sample[key] for key in keys if key in sample), None)
    if isinstance(sample, (tuple, list)):
        if not 1 <= len(sample) <= 2:
            raise ValueError(f"Expected an image or a pair (image, label) in {name}, found {len(sample)} values.")
        return sample[0], sample[1] if len(sample) == 2 else None
    return sample, None
