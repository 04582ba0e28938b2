"""Reads the header of a safetensors file: which tensors it holds, and whether the file is consistent with it.

The format (huggingface.co/docs/safetensors): eight bytes with the length of the header, the header as JSON
({name: {"dtype", "shape", "data_offsets"}}), then the tensors' bytes. Only the header is read here.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from trainer.common.formatting import size

POINTER = b"version https://git-lfs"
"""First bytes of a Git LFS pointer file."""
MAX_POINTER_BYTES = 1024
MAX_HEADER_BYTES = 100_000_000
"""The library's own limit."""
_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """Content of a header, or what is wrong with the file."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Empty if the header cannot be read."""
    problem: str = ""
    """What is wrong with the file, as a clause that follows its name; empty if nothing is."""
    fix: str = ""
    data_bytes: int = 0
    """Bytes of all its tensors."""


DOWNLOAD_AGAIN = "Download it again."
LFS_PULL = "Run `git lfs pull` in its folder."


def read_header(path: Path) -> Header:
    """The header of the file at `path`, cached until the file's size or modification time changes."""
    try:
        status = path.stat()
        return _read(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        return Header(
            problem=f"cannot be read: {(error.strerror or str(error)).lower()}", fix="Check its permissions."
        )


def is_pointer(path: Path) -> bool:
    """Whether a file is a Git LFS pointer."""
    try:
        if path.stat().st_size > MAX_POINTER_BYTES:
            return False
        with path.open("rb") as file:
            return file.read(len(POINTER)) == POINTER
    except OSError:
        return False


@lru_cache(maxsize=1024)
def _read(path: Path, total: int, _time: int) -> Header:
    with path.open("rb") as file:
        start = file.read(64)
        if problem := _no_safetensors(start, total):
            return Header(problem=problem[0], fix=problem[1])
        length = struct.unpack("<Q", start[:8])[0]
        if 8 + length > total:
            return Header(
                problem=f"ends within its header, after {size(total)}", fix=f"It was cut off. {DOWNLOAD_AGAIN}"
            )
        file.seek(8)
        try:
            value = orjson.loads(file.read(length))
        except ValueError:
            return Header(problem="has a header that is not JSON", fix=DOWNLOAD_AGAIN)
    return _parse(value, total - 8 - length)


def _no_safetensors(start: bytes, total: int) -> tuple[str, str] | None:
    """Problem and fix if a file with this start cannot be a safetensors file, else None."""
    if not total:
        return "is empty", DOWNLOAD_AGAIN
    if start.startswith(POINTER):
        return f"is a Git LFS pointer of {total} bytes, not the weights", LFS_PULL
    if start.lstrip()[:1] == b"<":
        return "is a web page, not weights", "Download the file itself, not the page that shows it."
    length = struct.unpack("<Q", start[:8])[0] if total > 8 else 0
    if start[8:9] != b"{" or not 2 <= length <= MAX_HEADER_BYTES:
        return "is not a safetensors file, whatever its name says", DOWNLOAD_AGAIN
    return None


def _parse(value: Any, present: int) -> Header:
    """A header from its JSON, checked against the `present` bytes after it."""
    if not isinstance(value, dict):
        return Header(problem="has a header that is not a JSON object", fix=DOWNLOAD_AGAIN)
    tensors: dict[str, Tensor] = {}
    promised = covered = 0
    for name, item in value.items():
        if name == "__metadata__":
            continue
        try:
            start, end = item["data_offsets"]
            tensor = Tensor(item["dtype"], tuple(item["shape"]))
            width = _BYTES.get(tensor.dtype)
            wrong = width is not None and math.prod(tensor.shape) * width != end - start
        except (KeyError, TypeError, ValueError):
            return Header(problem=f"has a header that does not describe {name[:80]}", fix=DOWNLOAD_AGAIN)
        if wrong or not 0 <= start <= end:
            return Header(problem=f"gives {name[:80]} a size that does not match its shape", fix=DOWNLOAD_AGAIN)
        tensors[name] = tensor
        promised = max(promised, end)
        covered += end - start
    if covered != promised:
        return Header(problem="has a header with overlapping tensors or gaps", fix=DOWNLOAD_AGAIN)
    if present < promised:
        problem = f"was cut off: it holds {size(present)} of the {size(promised)} that its header describes"
        return Header(tensors, problem, "Download it again; `hf download` continues.", promised)
    if present > promised:
        problem = f"holds {size(present)}, and its header describes {size(promised)}"
        return Header(tensors, problem, f"Its header and weights do not belong together. {DOWNLOAD_AGAIN}", promised)
    return Header(tensors, data_bytes=promised)
