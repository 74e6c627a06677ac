# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Folders: those that appear whole or not at all, those that keep what a run has measured, and checks before a run."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def appearing_folder(target: Path) -> Iterator[Path]:
    """Yield a folder beside `target` that takes its name when the block ends well; else nothing is left behind."""
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        unfinished.replace(target)
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise OSError(
                errno.ENOSPC,
                f"The disk is full, so that {target} was not written. Make room and run the same again: what was "
                "measured is kept",
            ) from error
        raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_result(target: Path, write: Callable[[Path], None]) -> None:
    """Have `write` fill a folder that appears as a whole, and delete what the run had kept until then.

    Of several processes, as `accelerate launch` starts them, the first one does.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    with appearing_folder(target) as folder:
        write(folder)
    shutil.rmtree(work_folder(target), ignore_errors=True)


def work_folder(target: Path) -> Path:
    """Return the folder next to an output in which a run keeps what it has measured until it is done."""
    return target.with_name(f".{target.name}.work")


def make_work_folder(folder: str | Path | None) -> Path | None:
    """Return the folder, made if it is not there, or None where nothing is to be kept."""
    if folder is None:
        return None
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)


def require_empty(folder: Path) -> Path:
    """Return the folder if it does not exist or is empty, and could be written."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder. Choose another one, or empty it.")
    make_folder(folder.parent)
    return folder


def make_folder(folder: Path) -> Path:
    """Return the folder, made if it did not exist, or raise a ValueError if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".mixq", dir=folder):
            pass  # what may be made may be written; permissions alone do not tell, on read-only and odd file systems
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror or error
        raise ValueError(f"{folder} cannot be written ({reason}). Choose another folder.") from error
    return folder
