"""Names of stored uploads: a hash of the content and the file's own name, which is what people are shown."""

from __future__ import annotations

import re

_HASH = re.compile(r"^[0-9a-f]{12}-(?=.)")


def own_names(path: str) -> str:
    """`data.path` with the own names of the files: `answers.jsonl, more.jsonl`; a hub id stays as it is."""
    return ", ".join(_HASH.sub("", name) for name in path.split())
