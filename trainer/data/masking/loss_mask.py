"""Finds the characters of a rendered conversation that the loss counts, so that any template works.

An answer counts from the first character after the generation prompt to the end token of its message. Two ways,
the quick one first: every generation prompt in the text has its answer right after it; or the texts of each
answer are located (`answer_spans.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from trainer.config.schema import DataConfig
from trainer.data.masking.answer_frame import AnswerFrame, ReasoningFrame, frame_of, reasoning_frame
from trainer.data.masking.answer_spans import Answer, Conversation
from trainer.data.masking.chat_templates import Template, Tools
from trainer.data.masking.left_out import left_out
from trainer.data.masking.message_forms import merged
from trainer.data.rows.messages import BadRow, Example, Message

Span = tuple[int, int]
JOINED = "messages of one role in a row are joined"
"""A note: the template wants strict turns."""


@dataclass(frozen=True)
class Rendered:
    """A text, and the ranges of it that count for the loss."""

    text: str
    spans: tuple[Span, ...]
    dropped: tuple[str, ...] = ()
    """What of the example the template left out, by kind of content."""
    notes: tuple[str, ...] = ()
    """What was done so that the template takes the example."""
    kinds: tuple[tuple[str, bool], ...] = ()
    """Kind of each thing that a model may be trained to write (answer, tool call, …), and whether it counts."""


class LossMasker:
    """Renders examples and finds what counts in them."""

    def __init__(self, template: Template, data: DataConfig) -> None:
        self._template, self._data = template, data
        self._eos = template.tokenizer.eos_token or ""

    @property
    def end(self) -> dict[str, Any] | None:
        """What the template ends an answer with, and whether that is a special token; None without a template."""
        if self._template.kind == "plain":
            return None
        try:
            text = self._frame.after
        except BadRow:
            return None
        return {"text": text, "special": self._frame.has_end_token(text), "eos": self._eos}

    def all(self, examples: Sequence[Example]) -> list[Rendered | BadRow]:
        """The texts of many examples; a BadRow in the place of one that cannot be rendered."""
        chats = [self._fit(example) for example in examples]
        quick = [number for number, chat in enumerate(chats) if chat is not None]
        wholes = self._template.render_all([chats[number] or [] for number in quick])
        ready = dict(zip(quick, wholes, strict=True)) if wholes is not None else {}
        return [self._one(example, ready.get(number)) for number, example in enumerate(examples)]

    def one(self, example: Example) -> Rendered:
        """The text of one example. Raises BadRow where it cannot be rendered."""
        if "text" in example:
            return self._document(example["text"])
        messages = self._template.conversation(example)
        if self._template.kind == "plain":
            text, answers = plain_text(messages, self._eos, example.get("verbatim", False))
            spans = self._chosen(text, answers, messages)
            return Rendered(text, spans, kinds=(("answer", bool(spans)),) * len(answers))
        tools = example.get("tools")
        try:
            return self._noted(self._found(messages, tools, self._template.render(messages, tools)), example)
        except BadRow:
            joined = merged(messages)
            if len(joined) == len(messages):
                raise
        found = self._found(joined, tools, self._template.render(joined, tools))
        return self._noted(replace(found, notes=(JOINED,)), example)

    def _document(self, text: str) -> Rendered:
        """Plain text, which ends with one EOS; all of it counts."""
        if self._eos:
            bare = text.rstrip()
            while bare.endswith(self._eos):
                text = bare = bare.removesuffix(self._eos).rstrip()
            text += self._eos
        return Rendered(text, ((0, len(text)),), kinds=(("text", True),))

    def _fit(self, example: Example) -> list[Message] | None:
        """The messages of an example that may be rendered together with others."""
        if "text" in example or "tools" in example or self._template.kind == "plain":
            return None
        return self._template.conversation(example)

    def _one(self, example: Example, ready: str | None) -> Rendered | BadRow:
        try:
            if ready is None:
                return self.one(example)
            return self._noted(self._found(self._template.conversation(example), None, ready), example)
        except BadRow as error:
            return error

    def _noted(self, found: Rendered, example: Example) -> Rendered:
        """What was found, with a note where the template did not take the system message as one."""
        asked = bool(self._data.system_prompt) or example["messages"][0]["role"] == "system"
        if not asked or not self._template.form.folds_system:
            return found
        return replace(found, notes=(*found.notes, "the system message is at the start of the first user message"))

    def _found(self, messages: list[Message], tools: Tools, whole: str) -> Rendered:
        answers = self._after_prompts(messages, whole)
        dropped = left_out(messages, tools, whole)
        no_reasoning: set[int] = set()
        if answers is None:
            conversation = Conversation(self._template, self._frame, messages, tools, whole)
            answers = conversation.answers()
            if self._data.reasoning == "keep":
                whole, answers = conversation.with_reasoning(answers, self._reasoning)
            dropped += conversation.dropped + ["reasoning"] * len(conversation.no_reasoning)
            no_reasoning = conversation.no_reasoning
        whole, places = self._ended(whole, answers)
        spans = self._chosen(whole, places, messages)
        return Rendered(whole, spans, tuple(dropped), kinds=_kinds(spans, answers, messages, no_reasoning))

    def _ended(self, whole: str, answers: list[Answer]) -> tuple[str, list[Span]]:
        """The text and the answers' places, the last of which ends with EOS where the template has no end token.

        A run would teach the model not to stop otherwise.
        """
        spans = [(answer.start, answer.end) for answer in answers]
        last = answers[-1] if answers else None
        if last is None or not self._eos or self._data.answer_end == "template":
            return whole, spans
        if whole[last.end :].strip() or self._frame.has_end_token(last.ending.rstrip()):
            return whole, spans
        return whole[: last.end] + self._eos, [*spans[:-1], (last.start, last.end + len(self._eos))]

    def _chosen(self, text: str, spans: list[Span], messages: Sequence[Message]) -> tuple[Span, ...]:
        """What of the answers counts by the setting and by the messages' own weights."""
        if self._data.loss_on == "all":
            return ((0, len(text)),)
        answers = [message for message in messages if message["role"] == "assistant"]
        kept = [span for span, message in zip(spans, answers, strict=True) if message.get("weight") != 0]
        return tuple(kept[-1:] if self._data.loss_on == "last" else kept)

    @cached_property
    def _reasoning(self) -> ReasoningFrame:
        return reasoning_frame(self._template, self._frame)

    @cached_property
    def _frame(self) -> AnswerFrame:
        return frame_of(self._template)

    def _after_prompts(self, messages: Sequence[Message], whole: str) -> list[Answer] | None:
        """The answers where each comes right after a generation prompt; else None."""
        before, after = self._frame.before, self._frame.after
        if not before or not after or whole.count(before) != _count(messages):
            return None
        place, found = 0, list[Answer]()
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            start = whole.find(before, place) + len(before)
            end = start + len(message["content"])
            if len(message.keys() - {"weight"}) > 2 or not whole.startswith(message["content"] + after, start):
                return None
            place = end + len(after)
            found.append(Answer(number, start, place, after))
        return found


def _count(messages: Sequence[Message]) -> int:
    return sum(message["role"] == "assistant" for message in messages)


def _kinds(
    spans: Sequence[Span], answers: Sequence[Answer], messages: Sequence[Message], no_reasoning: set[int]
) -> tuple[tuple[str, bool], ...]:
    """Kind of everything that the answers hold, and whether it counts."""
    starts = {start for start, _ in spans}
    everything = len(spans) == 1 and spans[0][0] == 0
    found: list[tuple[str, bool]] = []
    for answer in answers:
        message = messages[answer.message]
        counts = everything or answer.start in starts
        found.append(("tool call" if "tool_calls" in message else "answer", counts))
        if "reasoning_content" in message or "</think>" in message["content"]:
            found.append(("reasoning", counts and answer.message not in no_reasoning))
    if answers:
        found.append(("last answer", everything or answers[-1].start in starts))
    return tuple(found)


def plain_text(messages: Sequence[Message], eos: str, verbatim: bool) -> tuple[str, list[Span]]:
    """The texts one after the other, each on a line of its own unless `verbatim`; answers end with one EOS."""
    text, spans = "", list[Span]()
    for message in messages:
        content: str = message["content"]
        if message["role"] == "assistant":
            content = content.removesuffix(eos)
            spans.append((len(text), len(text) + len(content) + len(eos)))
            text += content + eos
        else:
            text += content + ("" if verbatim or not content or content[-1].isspace() else "\n")
    return text, spans
