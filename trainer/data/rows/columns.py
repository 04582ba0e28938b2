"""Which columns of a row make an example: recognized by their names, or picked by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from trainer.data.readers.limits import Row
from trainer.data.rows.messages import BadRow
from trainer.data.rows.preferences import CHOSEN, RATINGS, REJECTED

Shape = Literal["chat", "instruction", "question_answer", "prompt_completion", "text"]
SHAPES: dict[str, str] = {
    "chat": "conversations",
    "instruction": "instructions and answers",
    "question_answer": "questions and answers",
    "prompt_completion": "prompts and completions",
    "text": "plain text",
}
"""What people call each shape."""

CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns", "contents")
PROMPTS: dict[str, Shape] = {
    "instruction": "instruction",
    "question": "question_answer",
    "query": "question_answer",
    "problem": "question_answer",
    "prompt": "prompt_completion",
    "user": "prompt_completion",
    "input": "prompt_completion",
}
ANSWERS = (
    *("response", "output", "answer", "completion", "solution", "assistant", "reply", "target"),
    *("responses", "outputs", "answers", "completions"),
)
INPUTS = ("input", "context")
SYSTEMS = ("system", "system_prompt")
TEXTS = ("text", "content", "document", "body")
SHOWN_COLUMNS = 8
MEDIA = {name: kind for kind in ("image", "audio", "video") for name in (kind, f"{kind}s")}


@dataclass(frozen=True)
class Columns:
    """The columns that make an example; empty where there is none."""

    messages: str = ""
    prompt: str = ""
    input: str = ""
    completion: str = ""
    system: str = ""
    text: str = ""
    tools: str = ""
    history: str = ""
    chosen: str = ""
    rejected: str = ""
    rating: str = ""
    media: tuple[str, ...] = ()
    is_message: bool = False
    """Whether they are the fields of a single message."""
    picked: bool = False
    """Whether a person chose them."""

    def __hash__(self) -> int:
        return hash((self.messages, self.prompt, self.completion, self.text))  # quick: it is asked for each row

    @property
    def is_plain_pair(self) -> bool:
        """Whether question, answer and input are all there is to an example."""
        others = (self.messages, self.system, self.tools, self.history, self.chosen, self.rating, self.media)
        return bool(self.prompt and self.completion) and not any(others)

    @property
    def pair(self) -> Shape:
        return PROMPTS.get(self.prompt.strip().lower(), "prompt_completion")


def detect_columns(names: tuple[str, ...]) -> Columns:
    """The columns that their names tell; upper and lower case are one."""
    plain = {name.strip().lower(): name for name in reversed(names)}

    def first(known: Iterable[str], *without: str) -> str:
        return next((plain[name] for name in known if name in plain and plain[name] not in without), "")

    prompt, conversation = first(PROMPTS), first(CONVERSATIONS)
    completion = first(ANSWERS, prompt)
    chosen, rejected = first(CHOSEN), first(REJECTED)
    pairs = conversation or (prompt and completion) or chosen
    is_message = bool(first(("role", "from")) and first(("content", "value")) and not pairs)
    text = (
        ""
        if is_message
        else first(TEXTS) or (names[0] if len(names) == 1 and not (conversation or prompt or completion) else "")
    )
    return Columns(
        messages=conversation,
        prompt=prompt,
        input=first(INPUTS, prompt),
        completion=completion,
        system=first(SYSTEMS),
        text=text,
        is_message=is_message,
        tools=first(("tools", "functions")),
        history=first(("history",)),
        chosen=chosen if rejected else "",
        rejected=rejected if chosen else "",
        rating=first(RATINGS) if conversation or (prompt and completion) else "",
        media=tuple(name for key, name in plain.items() if key in MEDIA),
    )


def picked_columns(picks: dict[str, str], names: tuple[str, ...]) -> Columns:
    """The columns that a person picked; an input or system column alone goes with what is recognized."""
    found = detect_columns(names)
    if not any(picks[name] for name in ("messages", "prompt", "completion", "text")):
        return replace(found, input=picks["input"] or found.input, system=picks["system"] or found.system)
    return Columns(**picks, tools=found.tools, media=found.media, is_message=False, picked=True)


def text_of(row: Row, column: str) -> str:
    """The text in a column. Raises BadRow where there is none."""
    value = row.get(column)
    if isinstance(value, str):
        return value
    if value is None:
        raise BadRow(f"{column[:80]} is missing")
    raise BadRow(f"{column[:80]} is not text")


def filled_text(row: Row, column: str, what: str) -> str:
    """The text in a column. Raises BadRow where there is none, or nothing in it."""
    text = text_of(row, column)
    if not text.strip():
        raise BadRow(f"{what} is empty")
    return text


def no_shape(row: Row, columns: Columns) -> str:
    """Why there is no example in a row with these columns."""
    if columns.is_message:
        return "it is a single message: put the messages of a conversation into one row, as a list named messages"
    if columns.prompt or columns.completion:
        found, missing = (columns.prompt, "an answer") if columns.prompt else (columns.completion, "a prompt")
        return f"it has {found[:80]}, but no column with {missing}"
    names = ", ".join(list(row)[:SHOWN_COLUMNS])[:300] or "(none)"
    return f"the columns {names} make no known shape, such as instruction and output, messages, or text"
