# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Opens what a path or a name says: image folders, folders of Parquet files, data sets on the Hub."""

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from optimum_mixq.images.batches import Role
from optimum_mixq.images.splits import choose_split, kind_of_split, take_split


HUB_TIMEOUT = 10  # seconds
_SUFFIXES = {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def load_rows(source: str, split: str | None, role: Role) -> Any:
    """Return the `datasets.Dataset` of a folder, or of a data set on the Hub."""
    import datasets

    path = Path(source).expanduser()
    if path.is_file():
        raise ValueError(f"Expected a folder of images or a Hub data set, found the file {path}.")
    if not path.is_dir():
        return _load_from_hub(source, split, role)
    if any(path.glob("*.parquet")) or any(path.glob("data/*.parquet")):
        with _quiet_datasets():
            loaded = datasets.load_dataset(str(path))
        return take_split(list(loaded), loaded.__getitem__, split, role, str(path))
    return _load_image_folder(path, split, role)


def _load_image_folder(path: Path, split: str | None, role: Role) -> Any:
    """Load `path/<split>/<class>/*.png`, `path/<class>/*.png` or `path/*.png`.

    datasets 5.2 takes every folder name it knows as a split ("test", "train", ...) and merges the rest, "calibration"
    and "evaluation" among them: each split is therefore loaded by itself.
    """
    folders = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
    splits = [folder.name for folder in folders if kind_of_split(folder.name) is not None]
    if not splits:
        return take_split(["images"], lambda _: _load_images(path), split, role, str(path))
    if split is not None:
        names = [folder.name for folder in folders]
        return take_split(names, lambda name: _load_images(path / name), split, role, str(path))
    others = [folder.name for folder in folders if folder.name not in splits and _holds_images(folder)]
    others += ["loose images"] if any(map(_is_image, path.iterdir())) else []
    if others:
        raise ValueError(
            f"{path} has the splits {', '.join(splits)} and beside them {', '.join(others)}: name one with split=. "
            f"Class folders belong below a split, as in {path / splits[0] / others[0]}."
        )
    return take_split(splits, lambda name: _load_images(path / name), None, role, str(path))


def _load_images(path: Path) -> Any:
    import datasets

    try:
        with _quiet_datasets():
            # One split named by us, so that a class folder called "test" stays a class.
            files = {"images": f"{glob.escape(str(path))}/**"}
            return datasets.load_dataset("imagefolder", data_files=files, split="images")
    except (FileNotFoundError, datasets.exceptions.DatasetNotFoundError, ValueError) as error:
        raise ValueError(f"Found no image files under {path} ({type(error).__name__}: {error}).") from error


def _load_from_hub(source: str, split: str | None, role: Role) -> Any:
    import datasets

    missing = f"There is no folder {Path(source).expanduser()}"
    if source.startswith((".", "/", "~")):
        raise ValueError(f"{missing}. Pass an image folder's path or the name of a Hub data set.")
    _require_on_hub(source, missing)
    try:
        names = datasets.get_dataset_split_names(source)
        return datasets.load_dataset(source, split=choose_split(names, role, source) if split is None else split)
    except ConnectionError as error:
        raise ValueError(f"{missing}, and the Hub cannot be reached ({error}).") from error


def _require_on_hub(name: str, missing: str) -> None:
    """Raise at once for what is not on the Hub; `datasets` tries for a long time to reach what does not exist."""
    try:
        validate_repo_id(name)
        if not constants.HF_HUB_OFFLINE:  # offline the cache may hold it
            HfApi().dataset_info(name, timeout=HUB_TIMEOUT)
    except HFValidationError as error:
        raise ValueError(f"{missing}, and no Hub data set can have that name.") from error
    except RepositoryNotFoundError as error:
        raise ValueError(f"{missing}, and no data set of that name on the Hub that you may read.") from error
    except Exception as error:  # huggingface_hub 1 sends through httpx, 2.4 through httpx2: no common base
        raise ValueError(
            f"{missing}, and the Hub cannot be reached ({' '.join(str(error).split())}). "
            "A data set that was loaded before is read from the cache with HF_HUB_OFFLINE=1."
        ) from error


def _holds_images(folder: Path) -> bool:
    return any(_is_image(path) for path in folder.rglob("*"))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and path.is_file()


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Hide the progress bars of `datasets`, which a local folder does not need, for as long as the block lasts."""
    import datasets

    decided = datasets.config.HF_DATASETS_DISABLE_PROGRESS_BARS is not None  # by the environment, which has priority
    if decided or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
