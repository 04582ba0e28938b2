"""What a check leaves to the user: who is who in conversations, and what to do with rows for preference training.

No run starts while something of it is open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from trainer.common.errors import Issue
from trainer.common.formatting import plural
from trainer.config.schema import DataConfig
from trainer.data.rows.conversations import ConversationReader

SHOWN_NAMES = 8
ALL_ANSWERS = "To train on all of them as they are, pick the columns by hand."


def open_decisions(data: DataConfig, reader: ConversationReader, preferences: Counter[str]) -> Iterator[Issue]:
    """The issues; `preferences` counts the rows for preference training: pairs, good and bad ones."""
    if reader.unknown:
        yield _roles(reader)
    if data.preference_rows == "stop":
        yield from _preferences(preferences)
    elif preferences["bad"] and not preferences["good"] and not preferences["pairs"]:
        yield Issue(
            "data.preference_rows",
            f"All {preferences['bad']:,} rated answers are rated as bad: none is left to train on.",
            f"Choose data with good answers. {ALL_ANSWERS}",
        )


def _roles(reader: ConversationReader) -> Issue:
    names = reader.unknown.most_common()
    shown = ", ".join(f"{name[:40]} ({plural(count, 'message')})" for name, count in names[:SHOWN_NAMES])
    more = f" and {len(names) - SHOWN_NAMES:,} more" if len(names) > SHOWN_NAMES else ""
    example = f"{names[0][0][:40]}={'assistant' if reader.lacks_answers else 'user'}"
    return Issue(
        "data.roles",
        f"Nothing says who these are in the conversations: {shown}{more}.",
        f"Give each a role in data.roles, such as {example}: user, assistant, system, tool or ignore.",
    )


def _preferences(found: Counter[str]) -> Iterator[Issue]:
    if found["pairs"]:
        yield Issue(
            "data.preference_rows",
            "This is data for preference training (DPO), which this app does not do: "
            f"{plural(found['pairs'], 'row')} with a chosen and a rejected answer.",
            "Set preference_rows to chosen to train on the chosen answers; the rejected ones are left out.",
        )
    if found["good"] or found["bad"]:
        yield Issue(
            "data.preference_rows",
            "This is data for preference training (KTO), which this app does not do: "
            f"{plural(found['good'] + found['bad'], 'row')} with rated answers, {found['good']:,} good and "
            f"{found['bad']:,} bad.",
            f"Set preference_rows to chosen to train on the good ones; the bad ones are left out. {ALL_ANSWERS}",
        )
