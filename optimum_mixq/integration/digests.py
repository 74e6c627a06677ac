# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Digests of a saved model's tensors: kept in its config.json, checked against its files when they are loaded.

A flipped bit leaves a file that loads and a model that is wrong. `MIXQ_SKIP_DIGESTS=1` in the environment leaves the
check out. (The header of a safetensors file could hold them, but writes its entries in another order each time.)
"""

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor


SKIP_VARIABLE = "MIXQ_SKIP_DIGESTS"
# 64 bits: they guard against broken disks and downloads, not against people.
DIGEST_BYTES = 8
CHUNK_BYTES = 2**20
# As safetensors names them in a file's header.
DTYPE_NAMES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.int32: "I32",
    torch.int64: "I64", torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64",
}  # fmt: skip

FLOAT_NAMES = {name for dtype, name in DTYPE_NAMES.items() if dtype.is_floating_point}


@dataclass(frozen=True)
class _Entry:
    """One tensor as a file's header describes it; `begin` and `end` count bytes of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def digest_tensors(tensors: Mapping[str, Tensor], plan: Any) -> str:
    """Return what `check_files` needs of these tensors, by their names in files, as text.

    `plan` is what JSON can hold and the tensors cannot be read without. A digest tells a tensor by its name as well,
    so names are not repeated.
    """
    digests = sorted([_digest_plan(plan), *(digest_tensor(name, tensor) for name, tensor in tensors.items())])
    return base64.b64encode(b"".join(digests)).decode()


def digest_tensor(name: str, tensor: Tensor) -> bytes:
    """Return the digest of a tensor's name, dtype, shape and bytes, as a file holds them."""
    values = tensor.detach().cpu().contiguous()
    digest = _start(name, DTYPE_NAMES[values.dtype], tuple(values.shape))
    digest.update(values.flatten().view(torch.uint8).numpy().data)
    return digest.digest()


def names_in(files: Iterable[str | Path]) -> set[str]:
    """Return the names of the tensors that safetensors files hold."""
    names: set[str] = set()
    for path in map(Path, files):
        if path.suffix == ".safetensors":
            with path.open("rb") as file:
                names.update(_read_header(file, path))
    return names


def check_files(
    files: Iterable[str | Path],
    tensors: Mapping[str, Tensor],
    other_names: Mapping[str, str],
    plan: Any,
    digests: str | None,
) -> None:
    """Raise a ValueError that names the file and the tensor if a safetensors file does not hold what a model needs.

    `tensors` are the model's, on any device, by their names in files; `other_names` maps names that a file may use as
    well to these. `plan` and `digests` are those of config.json; without digests only sizes and dtypes are compared.
    """
    known = None
    if digests is not None and os.environ.get(SKIP_VARIABLE, "0") in ("", "0"):
        known = _read_digests(digests)
        if _digest_plan(plan) not in known:
            raise ValueError(
                "The plan, arithmetic or softmax grid in config.json is not what the tensors were saved with: fetch "
                f"config.json again ({SKIP_VARIABLE}=1 takes it as it is)."
            )
    for path in map(Path, files):
        if path.suffix == ".safetensors":
            with path.open("rb") as file:
                entries = {other_names.get(name, name): entry for name, entry in _read_header(file, path).items()}
                _check_fit(path, entries, tensors)
                if known is not None:
                    _check_digests(file, path, entries, known)


def _check_digests(file: BinaryIO, path: Path, entries: Mapping[str, _Entry], known: set[bytes]) -> None:
    for name, entry in entries.items():
        if _digest_entry(file, name, entry) not in known:
            raise ValueError(
                f"{path} is corrupt: the tensor {name} is not what was saved. Fetch the file again "
                f"({SKIP_VARIABLE}=1 loads it as it is)."
            )


def _check_fit(path: Path, entries: Mapping[str, _Entry], tensors: Mapping[str, Tensor]) -> None:
    """Raise a ValueError unless the file is complete and each of its tensors is one that the model has."""
    size = path.stat().st_size
    for name, entry in entries.items():
        if entry.end > size:
            raise ValueError(f"{path} ends within the tensor {name}: it is incomplete. Fetch the file again.")
        if name not in tensors:
            raise ValueError(f"{path} holds a tensor {name} that the model of its config.json does not have.")
        tensor = tensors[name]
        dtype, shape = DTYPE_NAMES[tensor.dtype], tuple(tensor.shape)
        # Loading casts floating tensors to the dtype that is asked for.
        same_kind = entry.dtype == dtype or (tensor.is_floating_point() and entry.dtype in FLOAT_NAMES)
        if entry.shape != shape or not same_kind:
            raise ValueError(
                f"{path} holds {name} as {entry.dtype} {list(entry.shape)}, where its config.json needs {dtype} "
                f"{list(shape)}: they do not belong together, or one of them is corrupt."
            )
    end = max((entry.end for entry in entries.values()), default=size)
    if end < size:
        raise ValueError(f"{path} has {size - end} bytes too many: it is corrupt. Fetch the file again.")


def _read_digests(text: str) -> set[bytes]:
    try:
        digests = base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise ValueError(f"The digests in config.json cannot be read ({error}): fetch config.json again.") from error
    return {digests[start : start + DIGEST_BYTES] for start in range(0, len(digests), DIGEST_BYTES)}


def _read_header(file: BinaryIO, path: Path) -> dict[str, _Entry]:
    """Return the tensors that a file announces: 8 bytes of length, then JSON."""
    try:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= path.stat().st_size - 8:
            raise ValueError("its header does not fit")
        header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return {
            name: _Entry(entry["dtype"], tuple(entry["shape"]), *(8 + length + at for at in entry["data_offsets"]))
            for name, entry in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no complete safetensors file ({error}). Fetch the file again.") from error


def _digest_entry(file: BinaryIO, name: str, entry: _Entry) -> bytes:
    digest = _start(name, entry.dtype, entry.shape)
    file.seek(entry.begin)
    for chunk in _chunks(file, entry.end - entry.begin):
        digest.update(chunk)
    return digest.digest()


def _chunks(file: BinaryIO, count: int) -> Iterator[bytes]:
    while count > 0:
        chunk = file.read(min(count, CHUNK_BYTES))
        if not chunk:
            return
        count -= len(chunk)
        yield chunk


def _digest_plan(plan: Any) -> bytes:
    return hashlib.blake2b(json.dumps(plan, sort_keys=True).encode(), digest_size=DIGEST_BYTES).digest()


def _start(name: str, dtype: str, shape: tuple[int, ...]) -> "hashlib.blake2b":
    return hashlib.blake2b(f"{name} {dtype} {shape} ".encode(), digest_size=DIGEST_BYTES)
