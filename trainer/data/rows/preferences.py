"""Rows for preference training: pairs of a chosen and a rejected answer (DPO), and answers rated good or bad (KTO).

This app trains on answers. So the user is asked, and may train on the good side alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from trainer.data.rows.messages import BadRow, Message

CHOSEN = ("chosen", "chosen_response", "response_chosen", "answer_chosen", "preferred", "preferred_output")
REJECTED = (
    *("rejected", "rejected_response", "response_rejected", "answer_rejected"),
    *("dispreferred", "non_preferred_output", "nonpreferred", "rejected_output"),
)
RATINGS = ("label", "kto_tag", "kto_label")
_WORDS: dict[Any, bool] = {"true": True, "false": False, "1": True, "0": False}
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def rating(value: Any) -> bool | None:
    """Whether an answer is rated as good; None where the value is no such rating."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    return _WORDS.get(value.strip().lower()) if isinstance(value, str) else None


def transcript(text: str) -> list[Message] | None:
    """The messages of a conversation that is written as one text: "Human: … Assistant: …"; None where it is not."""
    parts = _TURN.split(text)
    if len(parts) < 5 or parts[0].strip():
        return None
    names = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": names[name], "content": said.strip()} for name, said in zip(parts[1::2], parts[2::2], strict=True)
    ]


def last_answer_alone(messages: Sequence[Message]) -> list[Message]:
    """The messages, of which only the last one counts: what stands before it was not preferred to anything.

    Raises BadRow where the last one is no answer.
    """
    if not messages or messages[-1]["role"] != "assistant":
        raise BadRow("its good side does not end with an answer")
    before = [message | {"weight": 0} if message["role"] == "assistant" else message for message in messages[:-1]]
    return [*before, messages[-1]]
