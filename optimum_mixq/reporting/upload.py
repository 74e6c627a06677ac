# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Folders that appear whole or not at all, and their upload to the Hub in one commit."""

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
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


def megabytes_of(folder: Path) -> float:
    """Return the size of a saved model's files of tensors, in 10^6 bytes."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e6


def upload(folder: Path, repo_id: str, token: str | bool | None = None, private: bool | None = None) -> str:
    """Upload a folder's files in one commit, into a new repository or an existing one, and return its address.

    # One commit, where `HfApi.upload_folder` of huggingface_hub 2.4 makes several: nobody finds half of a model.
    """
    api = HfApi(token=token)
    try:
        repository = api.create_repo(repo_id, private=private, exist_ok=True)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        operations = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
        api.create_commit(repository.repo_id, operations, commit_message="Upload a model quantized by optimum-mixq")
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise PermissionError(
                f"The Hub refused to write to {repo_id} ({status}): log in with `hf auth login`, or pass token= with "
                "write access."
            ) from error
        raise
    except Exception as error:
        if not (_is_transport_error(error) or _is_transport_error(error.__cause__)):
            raise
        raise ConnectionError(
            f"The connection to the Hub broke ({error}). Nothing was committed to {repo_id}: call it again, files "
            "that arrived are not sent twice."
        ) from error
    return str(repository)


def _is_transport_error(error: BaseException | None) -> bool:
    """Tell by name: huggingface_hub 1 sends through httpx, 2.4 through httpx2, whose errors share no public base.

    The thread that sends a large file wraps them in a RuntimeError.
    """
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
