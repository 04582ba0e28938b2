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
MAX_TENSORS = 250_000
"""Tensors of one file; the most in a published one are about 100,000."""
MAX_DIMENSIONS = 16
_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
"""Every data type that the library reads."""


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
        text = file.read(length)
        if text.count(b"{") > MAX_TENSORS:
            return Header(problem=f"has a header of more than {MAX_TENSORS:,} tensors", fix=DOWNLOAD_AGAIN)
        try:
            value = orjson.loads(text)
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
    metadata = value.pop("__metadata__", None)
    is_text = isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values())
    if metadata is not None and not is_text:
        return Header(problem="has a header whose __metadata__ is not text by name", fix=DOWNLOAD_AGAIN)
    tensors: dict[str, Tensor] = {}
    ranges: list[tuple[int, int]] = []
    for name, item in value.items():
        found = _tensor(item)
        if isinstance(found, str):
            return Header(problem=f"has a header that {found} {name[:80]}", fix=DOWNLOAD_AGAIN)
        tensors[name], (start, end) = found
        ranges.append((start, end))
        if math.prod(tensors[name].shape) * _BITS[tensors[name].dtype] != 8 * (end - start):
            return Header(problem=f"gives {name[:80]} a size that does not match its shape", fix=DOWNLOAD_AGAIN)
    ranges.sort()
    promised = ranges[-1][1] if ranges else 0
    if any(start != before for (start, _), before in zip(ranges, (0, *(end for _, end in ranges)), strict=False)):
        return Header(problem="has a header with overlapping tensors or gaps", fix=DOWNLOAD_AGAIN)
    if present < promised:
        problem = f"was cut off: it holds {size(present)} of the {size(promised)} that its header describes"
        return Header(tensors, problem, "Download it again; `hf download` continues.", promised)
    if present > promised:
        problem = f"holds {size(present)}, and its header describes {size(promised)}"
        return Header(tensors, problem, f"Its header and weights do not belong together. {DOWNLOAD_AGAIN}", promised)
    return Header(tensors, data_bytes=promised)


def _tensor(item: Any) -> tuple[Tensor, tuple[int, int]] | str:
    """A tensor and its bytes' range; a clause that the tensor's name ends if that is not what the item describes."""
    if not isinstance(item, dict) or not {"dtype", "shape", "data_offsets"} <= item.keys():
        return "does not describe"
    dtype, shape, offsets = item["dtype"], item["shape"], item["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        return f"gives an unknown data type, {str(dtype)[:40]!r}, to"
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        return "gives no valid shape to"
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        return "gives no valid data_offsets to"
    return Tensor(dtype, tuple(shape)), (offsets[0], offsets[1])


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
