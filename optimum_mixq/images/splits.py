# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Which split of a data set serves which role, and parts of splits such as "train[:20]"."""

from collections.abc import Callable, Sequence
from typing import Any

from optimum_mixq.images.batches import Role


# What splits are called, in any case.
_NAMES = {
    "calibration": ("calibration", "calib", "cal"),
    "train": ("train", "training"),
    "evaluation": ("evaluation", "eval"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
_KINDS = {name: kind for kind, names in _NAMES.items() for name in names}
# Which split serves which role when the user names none: first match wins.
_PREFERRED: dict[Role, tuple[str, ...]] = {
    "calibration": ("calibration", "train"),
    "evaluation": ("evaluation", "validation", "test"),
}


def kind_of_split(name: str) -> str | None:
    """Return "calibration", "train", "evaluation", "validation" or "test" for a split's name, None for another name.

    >>> kind_of_split("Valid"), kind_of_split("dogs")
    ('validation', None)
    """
    return _KINDS.get(name.casefold())


def choose_split(available: Sequence[str], role: Role, where: str) -> str:
    """Return the split that serves a role where the user named none."""
    kinds = [kind_of_split(name) for name in available]
    listed = ", ".join(available)
    for kind in _PREFERRED[role]:
        found = [name for name, its_kind in zip(available, kinds, strict=True) if its_kind == kind]
        if len(found) > 1:
            raise ValueError(f"Which of {' and '.join(found)} in {where} is for {role}? Name one with split=.")
        if found:
            return found[0]
    if role == "evaluation" and len(available) == 1 and kinds[0] in _PREFERRED["calibration"]:
        raise ValueError(
            f"The only split of {where} is '{available[0]}', which is for calibration. "
            f"Pass split='{available[0]}' to evaluate on it nevertheless."
        )
    if len(available) == 1:
        return available[0]
    raise ValueError(f"Which split of {where} is for {role}? It has {listed}: name one with split=.")


def take_split(names: Sequence[str], load: Callable[[str], Any], split: str | None, role: Role, where: str) -> Any:
    """Return the rows of `split`: a split's name, a part as in "train[:20]" or "train[10%:]", or a sum of such.

    Without one it is the split that serves the role. `load` returns the `datasets.Dataset` of a name.
    """
    import datasets

    split = choose_split(names, role, where) if split is None else str(split)
    if split in names:
        return load(split)
    unknown = ValueError(f"There is no split '{split}' in {where}: it has {', '.join(names)}.")
    try:
        instruction = datasets.ReadInstruction.from_spec(split)
    except ValueError as error:
        raise unknown from error
    asked = {part.splitname for part in instruction._relative_instructions}
    if not asked <= set(names):
        raise unknown
    loaded = {name: load(name) for name in asked}
    if not all(hasattr(rows, "__len__") for rows in loaded.values()):
        raise ValueError(f"split='{split}' needs splits with a length, found streaming ones in {where}.")
    parts = instruction.to_absolute({name: len(rows) for name, rows in loaded.items()})
    taken = [loaded[part.splitname].select(range(part.from_, part.to)) for part in parts if part.from_ < part.to]
    if not taken:
        lengths = ", ".join(f"{name} {len(rows)}" for name, rows in loaded.items())
        raise ValueError(f"split='{split}' of {where} is empty: the splits have these numbers of rows: {lengths}.")
    try:
        return datasets.concatenate_datasets(taken) if len(taken) > 1 else taken[0]
    except ValueError as error:
        raise ValueError(f"The splits of '{split}' in {where} have different columns or classes: {error}") from error
