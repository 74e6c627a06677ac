# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""From a data set's labels to the model's classes: by name where there are names, by number where there are none."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig


# A class number; a vector (num_labels,) of several classes or targets; one target of a regression; a map (H, W).
Label = int | float | Tensor


@dataclass(frozen=True)
class LabelReader:
    """`read` turns what a source stores into a label of the model, or None for an unlabelled image.

    `check` raises a ValueError for a label that is none of the model's once it is prepared with its image. `mismatch`
    says why the source's labels are none of the model's, and is None where they fit.
    """

    read: Callable[[Any], Label | None]
    mismatch: str | None = None
    check: Callable[[Label], None] | None = None


def label_reader(
    config: PreTrainedConfig, feature: Any = None, label_names: Mapping[Any, str | int] | None = None
) -> LabelReader:
    """Return the reader of a source's labels.

    Args:
        feature: what the source knows about its labels; the `names` in it, if any, are matched with the model's.
        label_names: the model's class, by name or number, of each of the source's names (or numbers).
    """
    if _takes_numbers(config):
        return LabelReader(lambda value: _read_targets(value, config))
    classes = _Classes(config)
    renamed = {name: classes.find(wanted, name) for name, wanted in (label_names or {}).items()}
    several = config.problem_type == "multi_label_classification"
    names = getattr(getattr(feature, "feature", None) if several else feature, "names", None)
    if names is None:
        if several:
            return LabelReader(lambda value: _read_targets(value, config))
        return LabelReader(lambda value: classes.read(value, renamed))
    unknown = [name for name in renamed if name not in names]
    if unknown:
        raise ValueError(f"label_names renames '{unknown[0]}', but the data set's classes are {_beginning(names)}.")
    numbers, mismatch = classes.match(names, renamed)
    if several:
        return LabelReader(lambda value: _read_set(value, numbers, config.num_labels), mismatch)
    return LabelReader(lambda value: _read_numbered(value, numbers), mismatch)


def own_label_reader(feature: Any = None, label_names: Mapping[Any, str | int] | None = None) -> LabelReader:
    """Return the reader of labels for a model without classes: they are the source's own classes, by number.

    Names that come without numbers get them in the order in which they are first read.
    """
    if label_names:
        raise ValueError(
            "Expected no label_names for a model without a classifier, found some: it has no classes to match them "
            "with, and takes those of the data set as they are."
        )
    names = getattr(feature, "names", None)
    if names is not None:
        return LabelReader(lambda value: _read_numbered(value, range(len(names))))
    numbers: dict[str, int] = {}

    def read(value: Any) -> int | None:
        value = _plain(value)
        if isinstance(value, str):
            return numbers.setdefault(value, len(numbers))
        return None if value is None else read_class_number(value)

    return LabelReader(read)


def read_class_number(value: Any, count: int | None = None) -> int | None:
    """Return a class number of 0..count-1, or from 0 on, or None for -1, which marks unlabelled images."""
    number = _plain(value)
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if not isinstance(number, int):
        raise ValueError(f"label {_describe(number)}, which is no class number")
    if count is None and number < -1:
        raise ValueError(f"label {number}, but classes are numbered from 0")
    if count is not None and number != -1 and not 0 <= number < count:
        raise ValueError(
            f"label {number}, but the model has {count} classes (0..{count - 1}). "
            "Use images of the classes that the model was trained on"
        )
    return None if number == -1 else number


def stack_labels(labels: Sequence[Label | None]) -> Tensor | None:
    """Return labels (B,) int64, (B,) float32 or (B, ...) of a tensor per image, or None if one image has none."""
    known = [label for label in labels if label is not None]
    if len(known) < len(labels):
        return None
    if isinstance(known[0], Tensor):
        return join_labels([torch.as_tensor(label)[None] for label in known])
    return torch.tensor(known, dtype=torch.int64 if isinstance(known[0], int) else torch.float32)


def join_labels(parts: Sequence[Tensor]) -> Tensor:
    """Return the labels (B, ...) of several batches as one tensor.

    Where images have lists of different length, as lists of objects are, shorter ones are filled up with NaN.
    """
    if len({part.shape[1:] for part in parts}) == 1:
        return torch.cat(list(parts))
    if any(part.ndim < 2 or part.shape[2:] != parts[0].shape[2:] for part in parts):
        raise ValueError(
            f"Expected labels of one size, found {', '.join(str(tuple(part.shape[1:])) for part in parts)}"
        )
    longest = max(part.shape[1] for part in parts)
    filled = [part.new_full((len(part), longest, *part.shape[2:]), torch.nan) for part in parts]
    for whole, part in zip(filled, parts, strict=True):
        whole[:, : part.shape[1]] = part
    return torch.cat(filled)


class _Classes:
    """The model's class names, and what they are found by."""

    def __init__(self, config: PreTrainedConfig) -> None:
        self.count = config.num_labels
        self.names = [str(config.id2label.get(number, f"LABEL_{number}")) for number in range(self.count)]
        self.unnamed = all(name == f"LABEL_{number}" for number, name in enumerate(self.names))
        # As it stands, then folded, then by synonyms as in "tench, Tinca tinca".
        self._found_by: tuple[dict[str, set[int]], ...] = ({}, {}, {})
        for number, name in enumerate(self.names):
            for found_by, keys in zip(self._found_by, _keys(name), strict=True):
                for key in keys:
                    found_by.setdefault(key, set()).add(number)

    def find(self, wanted: str | int, name: Any) -> int:
        """Return the number of the class that `label_names` wants for `name`."""
        if isinstance(wanted, int) and 0 <= wanted < self.count:
            return wanted
        found = self._candidates(wanted) if isinstance(wanted, str) else set()
        if len(found) != 1:
            raise ValueError(
                f"label_names maps '{name}' to {wanted!r}, which is none of the model's classes "
                f"({_beginning(self.names)})."
            )
        return next(iter(found))

    def match(self, names: Sequence[str], renamed: Mapping[Any, int]) -> tuple[list[int], str | None]:
        """Return the model's class of each name, and what does not fit."""
        # WordNet IDs are numbers rather than names: the classes of ImageNet are numbered in their order.
        word_net = all(re.fullmatch(r"n\d{8}", name) for name in names) and list(names) == sorted(names)
        unnamed = self.unnamed and not all(name.isdecimal() for name in names)
        if not renamed and len(names) == self.count and (unnamed or word_net):
            return list(range(self.count)), None
        found = [renamed.get(name, self._number_of(name, position, names)) for position, name in enumerate(names)]
        numbers = [number for number in found if number is not None]
        if len(numbers) < len(found) or (not renamed and len(set(numbers)) < len(numbers)):
            return [], self._mismatch(names, found)
        return numbers, None

    def read(self, value: Any, renamed: Mapping[Any, int]) -> int | None:
        """Return the class of a label that comes with no list of names."""
        value = _plain(value)
        if value is None or (isinstance(value, (str, int)) and value in renamed):
            return None if value is None else renamed[value]
        if isinstance(value, str):
            number = self._number_of(value, None, ())
            if number is None:
                raise ValueError(f"label '{value}', which is none of the model's classes ({_beginning(self.names)})")
            return number
        return read_class_number(value, self.count)

    def _number_of(self, name: str, position: int | None, names: Sequence[str]) -> int | None:
        candidates = self._candidates(name)
        if len(candidates) > 1 and len(names) == self.count and position in candidates:
            return position  # ImageNet has two classes called "crane"
        if len(candidates) == 1:
            return next(iter(candidates))
        return int(name) if name.isdecimal() and not candidates and int(name) < self.count else None

    def _candidates(self, name: str) -> set[int]:
        for found_by, keys in zip(self._found_by, _keys(name), strict=True):
            found = set().union(*(found_by.get(key, set()) for key in keys))
            if found:
                return found
        return set()

    def _mismatch(self, names: Sequence[str], found: Sequence[int | None]) -> str:
        lacking = [name for name, number in zip(names, found, strict=True) if number is None]
        example = lacking[0] if lacking else next(name for at, name in enumerate(names) if found[at] in found[:at])
        return (
            f"The data set's classes are not the model's ('{example}' is "
            f"{'unknown' if lacking else 'there twice'}): the data set has {_beginning(names)}, the model "
            f"{_beginning(self.names)}. Rename them, or pass as the data set what open_images(..., "
            f"label_names={{{example!r}: {self.names[0]!r}, ...}}) returns, with the model's class for each name."
        )


def _takes_numbers(config: PreTrainedConfig) -> bool:
    return config.problem_type == "regression" or (config.problem_type is None and config.num_labels == 1)


def _read_targets(value: Any, config: PreTrainedConfig) -> Label | None:
    """Return the target of a regression, or the vector (num_labels,) of targets or of classes that are present."""
    value = _plain(value)
    if value is None:
        return None
    vector = value if isinstance(value, list) else [value]
    numbers = all(isinstance(number, (int, float)) and math.isfinite(number) for number in vector)
    if not numbers or len(vector) != config.num_labels:
        raise ValueError(f"label {_describe(value)}, but the model has {config.num_labels} targets")
    if config.problem_type == "multi_label_classification" and not all(0 <= number <= 1 for number in vector):
        raise ValueError(f"label {_describe(value)}, but each of several classes is 0 or 1")
    return float(vector[0]) if config.num_labels == 1 else torch.tensor(vector, dtype=torch.float32)


def _read_set(value: Any, numbers: Sequence[int], count: int) -> Tensor | None:
    """Return the vector (num_labels,) of a list of classes."""
    value = _plain(value)
    if value is None:
        return None
    if not isinstance(value, list):
        raise ValueError(f"label {_describe(value)}, which is no list of classes")
    vector = torch.zeros(count)
    for entry in value:
        vector[_read_numbered(entry, numbers)] = 1
    return vector


def _read_numbered(value: Any, numbers: Sequence[int]) -> int | None:
    value = _plain(value)
    if value is None or value == -1:
        return None
    if not isinstance(value, int) or not 0 <= value < len(numbers):
        raise ValueError(f"label {_describe(value)}, but the data set has {len(numbers)} classes")
    return numbers[value]


def _plain(value: Any) -> Any:
    """Return a number, a string or a list of what may be a tensor, an array or one of numpy's numbers."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, tuple):
        value = list(value)
    return int(value) if isinstance(value, bool) else value


def _keys(name: str) -> tuple[list[str], list[str], list[str]]:
    folded, synonyms = _fold(name), [_fold(synonym) for synonym in name.split(",")]
    return [name], [folded] if folded else [], [synonym for synonym in synonyms if synonym]


def _fold(name: str) -> str:
    """Return a name's letters and digits, in lower case: a folder cannot be called "T-shirt/top"."""
    return re.sub(r"[\W_]+", "", name).casefold()


def _beginning(names: Sequence[str]) -> str:
    shown = ", ".join(str(name) for name in names[:3])
    return f"{shown}, ... ({len(names)})" if len(names) > 3 else shown


def _describe(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(str, value[:3]))}{', ...' if len(value) > 3 else ''}] of length {len(value)}"
    return repr(value)
