"""The only way in which commands print: control characters from files, models and data never reach the terminal."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from tqdm import tqdm

from trainer.common.plain_text import json_text, one_line, visible

__all__ = ["one_line", "show", "show_json", "show_styled"]


def show(*texts: object, file: TextIO | None = None) -> None:
    """Print texts, one below the other, above a progress bar if there is one."""
    show_styled(visible("\n".join(map(str, texts))), file)


def show_json(value: Any, indent: int | None = 2) -> None:
    """Print JSON on standard output; control characters are escaped, so the value is the same."""
    show_styled(json_text(value, indent))


def show_styled(text: str, file: TextIO | None = None) -> None:
    """Print text with our own colors, whose foreign parts the caller has made `visible`."""
    stream = file or sys.stdout
    tqdm.write(text, file=stream)
    stream.flush()
