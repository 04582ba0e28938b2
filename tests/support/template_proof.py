"""Judges what the loss counts under a chat template, by means other than the mask's own.

Three oracles: the template's own `{% generation %}` marks, where TRL ships a version of it that has them; the text
that answering adds to a conversation with its generation prompt; and distinctive words in every message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import trl

from tests.support import tiny
from trainer.config.schema import DataConfig
from trainer.data.masking.answer_parts import common_prefix
from trainer.data.masking.chat_templates import Template, choose
from trainer.data.masking.encoding import Encoder
from trainer.data.masking.loss_mask import LossMasker, Rendered
from trainer.data.rows.messages import BadRow, Message

Range = tuple[int, int]
SHIPPED = Path(trl.__file__).parent / "chat_templates"
MARKUP = re.compile(r"<\|[^<>|\s{}]{1,40}\|?>|<[a-z_]+\|>|<｜[^<>\s]{1,40}｜>|<[a-z]+_of_[a-z]+>|\[/?[A-Z_]{2,30}\]")
"""What a template writes as one token each."""
GENERATION = re.compile(r"{%-? *generation")
REPORTED = {"Rzero": "reasoning", "Rone": "reasoning", "Aside": "text beside tool calls"}
"""Words of an answer that a template may leave out, and the name by which that must be reported."""


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def answer(text: str, **fields: Any) -> Message:
    return {"role": "assistant", "content": text, **fields}


CALL = {
    "id": "call12345",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": "Zurichcity"}},
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Looks up Dweather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Name of the town"}},
            "required": ["city"],
        },
    },
}
RESULT = {"role": "tool", "tool_call_id": "call12345", "name": "get_weather", "content": "Tresult sunny"}
KINDS: dict[str, list[Message]] = {
    "plain": [user("Uzero asks"), answer("Azero replies 42.")],
    "multi": [user("Uzero asks"), answer("Azero replies 42."), user("Uone asks"), answer("Aone replies 43.")],
    "system": [{"role": "system", "content": "Srule holds"}, user("Uzero asks"), answer("Azero replies 42.")],
    "tools": [user("Uzero asks"), answer("", tool_calls=[CALL]), RESULT, answer("Aone replies 43.")],
    "reasoning": [user("Uzero asks"), answer("Azero replies 42.", reasoning_content="Rzero thought")],
    "inline think": [user("Uzero asks"), answer("<think>\nRzero thought\n</think>\n\nAzero replies 42.")],
    "inline think, two turns": [
        user("Uzero asks"),
        answer("<think>\nRzero thought\n</think>\n\nAzero replies 42."),
        user("Uone asks"),
        answer("<think>\nRone thought\n</think>\n\nAone replies 43."),
    ],
}
"""The seven kinds of conversations. Each text has a word of its own."""
WRITTEN = {"Azero", "Aone", "Rzero", "Rone", "get_weather", "Zurichcity"}
"""Words that the assistant writes."""
READ = {"Uzero", "Uone", "Srule", "Tresult", "Dweather"}
"""Words that it reads."""


@dataclass(frozen=True)
class Verdict:
    """What became of one conversation under one template."""

    state: str
    """right, refused or wrong."""
    reason: str = ""
    dropped: tuple[str, ...] = ()
    """What of the conversation the template leaves out, in its order."""
    reference: str = ""
    """What it was compared with."""


@dataclass(frozen=True)
class Judge:
    """A tokenizer with a template, and what its masks are compared with."""

    tokenizer: Any
    marked: str | None = None
    """The template with `{% generation %}` marks."""

    @cached_property
    def template(self) -> Template:
        return choose(DataConfig(), self.tokenizer, {"chat": 1})

    @cached_property
    def _ends(self) -> tuple[str, ...]:
        return tuple({*self.tokenizer.all_special_tokens, *self.tokenizer.get_added_vocab()})

    def verdict(self, kind: str) -> Verdict:
        messages, tools = KINDS[kind], [TOOL] if kind == "tools" else None
        example = {"messages": messages, **({"tools": tools} if tools else {})}
        try:
            found = LossMasker(self.template, DataConfig()).one(example)
        except BadRow as error:
            return self._refused(messages, tools, str(error))
        spans, ids = self._counted(found)
        texts = [self.tokenizer.decode(ids[first:last], clean_up_tokenization_spaces=False) for first, last in spans]
        wrong = next(self._faults(messages, tools, found, texts), "")
        reference = "words"
        if not wrong:
            chat = self.template.conversation(example)
            marks = self._marks(chat, tools, ids)
            if marks is None:
                reference, wrong = self._continued(chat, tools, found.text, texts)
            else:
                reference, wrong = "marks", self._differs(spans, marks, ids, chat, tools)
        dropped = tuple(dict.fromkeys(self._left_out(messages, found.text)))
        return Verdict("wrong" if wrong else "right", wrong, dropped, reference)

    def _counted(self, found: Rendered) -> tuple[list[Range], list[int]]:
        ((ids, spans),) = Encoder(self.tokenizer, self.template)([found], [False])
        return spans, ids

    def _refused(self, messages: list[Message], tools: Any, reason: str) -> Verdict:
        """A refusal is right only where the template refuses, or leaves out what the assistant should write."""
        try:
            text = self.template.render(self.template.conversation({"messages": messages}), tools)
        except BadRow:
            return Verdict("refused", reason)
        bare = self._unanswered(messages, tools)
        lost = [word for word in _words(messages) & WRITTEN if text.count(word) <= bare.count(word)]
        return Verdict("refused" if lost else "wrong", reason if lost else f"refused for nothing: {reason}")

    def _unanswered(self, messages: list[Message], tools: Any) -> str:
        """What stands before the first answer."""
        first = next(number for number, message in enumerate(messages) if message["role"] == "assistant")
        return self.template.render(self.template.conversation({"messages": messages[:first]}), tools)

    def _faults(self, messages: list[Message], tools: Any, found: Rendered, texts: list[str]) -> Iterator[str]:
        counted = "\0".join(texts)
        bare = self._unanswered(messages, tools)
        for word in _words(messages):
            if word in WRITTEN and found.text.count(word) > bare.count(word) and word not in counted:
                yield f"{word} does not count"
            if word in READ and word in counted:
                yield f"{word} counts"
        if len(texts) != sum(message["role"] == "assistant" for message in messages):
            yield f"{len(texts)} answers count"
        if not texts[-1].rstrip().endswith(self._ends):
            yield f"the last answer has no end token: {texts[-1]!r}"
        for part in self._left_out(messages, found.text):
            if part not in found.dropped:
                yield f"{part} is left out in silence"

    def _left_out(self, messages: list[Message], text: str) -> Iterator[str]:
        for word in sorted(_words(messages)):
            if word not in text:
                yield REPORTED.get(word, word)

    def _marks(self, messages: list[Message], tools: Any, ids: list[int]) -> list[int] | None:
        """What the marks count: 1 or 0 for each token; None where there are none for this text."""
        if self.marked is None:
            return None
        made = self.template.form(messages)
        try:
            encoded = self.tokenizer.apply_chat_template(
                made, tools=tools, chat_template=self.marked, return_dict=True, return_assistant_tokens_mask=True
            )
        except Exception:
            return None
        marks: list[int] = encoded["assistant_masks"]
        return marks if encoded["input_ids"] == ids and any(marks) else None

    def _differs(
        self, spans: list[Range], marks: list[int], ids: list[int], messages: list[Message], tools: Any
    ) -> str:
        """How the counted tokens differ from the marked ones, but for what the two define otherwise.

        Marks may begin with what the generation prompt holds and end with spaces. They may lack what a template
        ends a tool call with that waits for its result.
        """
        ours = {at for first, last in spans for at in range(first, last)}
        theirs = {at for at, mark in enumerate(marks) if mark}
        waiting = [
            self.template.render(messages[: number + 1], tools)
            for number, message in enumerate(messages)
            if "tool_calls" in message
        ]
        for first, last in _runs(sorted(ours - theirs)):
            more = self.tokenizer.decode(ids[first:last])
            if first - 1 not in ours or not any(text.endswith(more) for text in waiting):
                return f"counts {more!r}, which is not marked"
        numbers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        prompts = [self._prompt(messages[:number], tools) for number in numbers]
        for first, last in _runs(sorted(theirs - ours)):
            missing = self.tokenizer.decode(ids[first:last]).strip()
            if missing and not (last in ours and any(missing in prompt for prompt in prompts)):
                return f"does not count {missing!r}, which is marked"
        return ""

    def _prompt(self, messages: list[Message], tools: Any) -> str:
        """What asking for an answer adds; the markup before it where that is nothing."""
        plain, asked = (self.template.render(messages, tools, ask=ask) for ask in (False, True))
        added = asked[common_prefix(plain, asked) :]
        return added or MARKUP.findall(asked)[-1]

    def _continued(self, messages: list[Message], tools: Any, text: str, texts: list[str]) -> tuple[str, str]:
        """What was compared, and how the answers differ from what answering adds to the prompted conversation."""
        numbers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        reference = "words"
        for number, counted in zip(numbers, texts, strict=True):
            asked = self.template.render(messages[:number], tools, ask=True)
            whole = self.template.render(messages[: number + 1], tools).rstrip()
            if not whole.startswith(asked) or not text.startswith(whole):
                continue
            expected = whole[len(asked) :]
            reference = "prompt"
            if counted.rstrip() not in (expected, expected + self.tokenizer.eos_token):
                return reference, f"counts {counted!r} where {expected!r} answers"
        return reference, ""


def _words(messages: list[Message]) -> set[str]:
    return {word for word in WRITTEN | READ if word in repr(messages)}


def _runs(places: list[int]) -> Iterator[Range]:
    """Ranges of numbers that follow each other."""
    start = 0
    for at in range(1, len(places) + 1):
        if at == len(places) or places[at] != places[at - 1] + 1:
            yield places[start], places[at - 1] + 1
            start = at


def shipped() -> list[str]:
    """Names of the chat templates that TRL ships."""
    return sorted(path.stem for path in SHIPPED.glob("*.jinja"))


def judge_of(name: str) -> Judge:
    """One of TRL's templates on the tiny tokenizer, its markup as special tokens."""
    text = (SHIPPED / f"{name}.jinja").read_text(encoding="utf-8")
    made = tiny.tokenizer(chat=False)
    made.chat_template = text
    made.add_special_tokens({"additional_special_tokens": sorted(set(MARKUP.findall(text)))})
    return Judge(made, marked_like(name) or text if GENERATION.search(marked_like(name) or text) else None)


def marked_like(name: str) -> str | None:
    """TRL's version of a template with `{% generation %}` marks, where it ships one."""
    path = SHIPPED / f"{name}_training.jinja"
    return path.read_text(encoding="utf-8") if path.exists() else None
