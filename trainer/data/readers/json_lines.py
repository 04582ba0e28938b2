"""One row of JSONL.

Our own: `datasets` and pyarrow guess one schema for all rows and stop at the first bad one; here every bad row gets
its line number and its reason, and the rest is kept.
"""

from __future__ import annotations

import orjson

from trainer.data.readers.json_text import DECODER, reason
from trainer.data.readers.limits import MAX_COLUMNS, MAX_DEPTH, MAX_NAME, MAX_ROW_BYTES, PROBLEM, Row, row_of

SHORT = 16384
"""Bytes of a line that cannot hold more values than a row may have."""


def parse_row(line: bytes | None) -> Row:
    """One line of JSONL; None stands for one that was too long."""
    if line is None:
        return {PROBLEM: f"longer than {MAX_ROW_BYTES:,} bytes"}
    row = _plain_row(line)
    if row is not None:
        return row
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return {PROBLEM: "not UTF-8"}
    try:
        return row_of(DECODER.decode(text))
    except (ValueError, RecursionError) as error:
        return {PROBLEM: reason(error)}


def _plain_row(line: bytes) -> Row | None:
    """The row of a line of which a glance shows that nothing is wrong with it; None where a closer look is due.

    orjson takes no bad UTF-8 and no half characters, a short line holds few values, and few brackets cannot be
    nested deep: what is left to check are NUL characters and the columns' names.
    """
    if len(line) > SHORT or b"\\u0000" in line or line.count(b"{") + line.count(b"[") > MAX_DEPTH:
        return None
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if type(row) is not dict or len(row) > MAX_COLUMNS or max(map(len, row), default=0) > MAX_NAME:
        return None
    return row
