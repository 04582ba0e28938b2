"""Data files of a test, and what a check finds in them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.config.schema import DataConfig
from trainer.data.checking import check

PAIR = {"instruction": "Where?", "response": "Here."}
CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}]
}


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def keep(folder: Path, name: str, content: bytes) -> DataConfig:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return DataConfig(source="file", path=name)


def read(folder: Path, *rows: Any, **settings: Any) -> Any:
    """What a check finds in these rows."""
    return check(replace(keep(folder, "a.jsonl", lines(*rows)), **settings), folder)


def texts(checked: Any) -> list[list[tuple[str, str]]]:
    return [[(item["role"], item["content"]) for item in example["messages"]] for example in checked.examples()]
