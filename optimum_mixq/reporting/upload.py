# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The upload of a folder to the Hub in one commit."""

from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError


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
