"""Which columns of a row make an example: recognized by their names, or picked by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from trainer.data.preferences import CHOSEN, RATINGS, REJECTED

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
    picked: bool = False
    """Whether a person chose them."""

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
    text = first(TEXTS) or (names[0] if len(names) == 1 and not (conversation or prompt or completion) else "")
    return Columns(
        messages=conversation,
        prompt=prompt,
        input=first(INPUTS, prompt),
        completion=completion,
        system=first(SYSTEMS),
        text=text,
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
    return Columns(**picks, tools=found.tools, media=found.media, picked=True)
