"""Removes secrets from text that is logged, recorded or shown."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO

HIDDEN = "[secret]"
VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "LAB_PASSWORD", "WANDB_API_KEY")
_TOKEN = re.compile(
    r"(?:hf|api_org)_[A-Za-z0-9]{16,}"
    r"|(?<=earer )[A-Za-z0-9._~+/=-]{8,}"
    r"|(?<=://)[^/\s:@]{1,200}:[^/\s@]{1,200}(?=@)"
)
_extra: set[str] = set()


def remember(secret: str) -> None:
    """Also hide this text from now on: a secret that is no longer in the environment."""
    if len(secret) >= 4:
        _extra.add(secret)


def redact(text: str) -> str:
    """`text` with all tokens, and all secrets from the environment, replaced."""
    known = {os.environ.get(name, "") for name in VARIABLES} | _extra
    for secret in sorted(known, key=len, reverse=True):
        if len(secret) >= 4:
            text = text.replace(secret, HIDDEN)
    return _TOKEN.sub(HIDDEN, text)


def holds_secret(text: str) -> bool:
    """Whether the text contains a secret."""
    return redact(text) != text


def redact_values(value: Any) -> Any:
    """JSON with all its strings redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redact_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_values(item) for item in value]
    return value


class _Redacted:
    """A text stream that redacts what is written to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._line = ""

    def write(self, text: str) -> int:
        # a secret may arrive in pieces, so whole lines are redacted; progress bars end lines with \r
        lines, end, rest = _cut(self._line + text)
        self._line = rest
        if len(rest) > 65536:
            lines, self._line = lines + end + rest, ""
            end = ""
        self._stream.write(redact(lines) + end)
        return len(text)

    def writelines(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def close_line(self) -> None:
        """Write the incomplete last line."""
        self._stream.write(redact(self._line))
        self._line = ""
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _cut(text: str) -> tuple[str, str, str]:
    """Text up to its last line break, that line break, and the rest."""
    place = max(text.rfind("\n"), text.rfind("\r"))
    return (text[:place], text[place], text[place + 1 :]) if place >= 0 else ("", "", text)


def install() -> None:
    """Redact everything that this process writes to standard output and error from now on."""
    import atexit

    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _Redacted):
            wrapped = _Redacted(stream)
            setattr(sys, name, wrapped)
            atexit.register(wrapped.close_line)
