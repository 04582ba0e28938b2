"""One sentence on what was recognized in the rows, and how."""

from __future__ import annotations

from collections import Counter

from trainer.data.rows.columns import SHAPES, Columns, Shape
from trainer.data.rows.conversations import ConversationReader


def describe(seen: Counter[tuple[Shape, Columns]], reader: ConversationReader) -> str:
    """The most frequent shape and its columns; empty where no row could be used."""
    if not seen:
        return ""
    (shape, columns), _ = seen.most_common(1)[0]
    how = "Picked" if columns.picked else "Recognized"
    if shape == "text":
        found = f"the column {columns.text}"
    elif shape == "chat":
        found = _chat(columns, reader)
    else:
        found = f"the columns {columns.prompt} and {columns.chosen or columns.completion}"
        found += f", with {columns.input} after the {columns.prompt}" if columns.input else ""
        found += f", {columns.history} as earlier turns" if columns.history else ""
    found += f", {columns.system} as the system message" if columns.system and shape != "text" else ""
    names = reader.describe_names() if shape == "chat" else ""
    return f"{how} as {SHAPES[shape]}: {found}. {names}".rstrip()


def _chat(columns: Columns, reader: ConversationReader) -> str:
    before = columns.messages or columns.prompt
    names = [before, columns.chosen or ("" if columns.messages else columns.completion)]
    places = " and ".join(filter(None, names))
    return f"{places} {'hold' if all(names) else 'holds'} lists of messages with {' and '.join(reader.keys)}"
