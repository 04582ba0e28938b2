"""Text from files, models and data as it may reach a terminal or a list: no control characters, a bounded length.

Escape sequences could recolor, retitle and rewrite a terminal or fill its clipboard; bidirectional overrides let a
text read as another one.
"""

from __future__ import annotations

import json
import re
from typing import Any

_HOSTILE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and newline, DEL, C1
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"  # line separators and bidirectional controls
    "\ud800-\udfff\U000e0000-\U000e007f]"  # lone surrogates, invisible tags
)


def visible(text: str) -> str:
    """Text of one or more lines, with its control characters written out: `\\x1b`."""
    return _HOSTILE.sub(lambda match: _escaped(match[0]), text)


def one_line(text: str, limit: int = 1000) -> str:
    """Text as one line of at most `limit` characters, without control characters."""
    return " ".join(_HOSTILE.sub(" ", text[: 4 * limit]).split())[:limit].rstrip()


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON for a terminal or a pipe: the same values, with control characters in texts escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return _HOSTILE.sub(lambda match: _json_escaped(match[0]), text)


def _escaped(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


def _json_escaped(character: str) -> str:
    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]
