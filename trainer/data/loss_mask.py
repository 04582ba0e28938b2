"""Finds the assistant's characters in a rendered conversation by rendering, so that any template works.

Three ways, the quick one first. 1. Every generation prompt in the text has its answer right behind it, and there
are as many as answers. 2. A second rendering, with marks in place of the answers, shows where they stand.
3. Where a template does more than put answers into places (drops old reasoning, rewrites content), each answer
is looked for on its own: what moves when something is added to its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from trainer.config.schema import LossOn
from trainer.data.answer_frame import LOST, MARK, AnswerFrame, common_prefix, frame_of
from trainer.data.chat_templates import Template, Tools
from trainer.data.conversations import BadRow, Example, Message

Span = tuple[int, int]
PROBE = "‡"


@dataclass(frozen=True)
class Rendered:
    """A text, and the ranges of it that count for the loss."""

    text: str
    spans: tuple[Span, ...]


class LossMasker:
    """Renders examples and finds what counts in them."""

    def __init__(self, template: Template, loss_on: LossOn) -> None:
        self._template, self._loss_on = template, loss_on
        self._eos = template.tokenizer.eos_token or ""

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
            text = example["text"]
            text += "" if self._eos and text.endswith(self._eos) else self._eos
            return Rendered(text, ((0, len(text)),))
        messages = self._template.conversation(example)
        if self._template.kind == "plain":
            return self._chosen(*_plain(messages, self._eos), messages)
        tools = example.get("tools")
        return self._found(messages, tools, self._template.render(messages, tools))

    def _fit(self, example: Example) -> list[Message] | None:
        """The messages of an example that may be rendered together with others."""
        if "text" in example or "tools" in example or self._template.kind == "plain":
            return None
        return self._template.conversation(example)

    def _one(self, example: Example, ready: str | None) -> Rendered | BadRow:
        try:
            if ready is None:
                return self.one(example)
            return self._found(self._template.conversation(example), None, ready)
        except BadRow as error:
            return error

    def _found(self, messages: list[Message], tools: Tools, whole: str) -> Rendered:
        if self._loss_on == "all":
            return self._chosen(whole, [], messages)
        spans = self._behind_prompts(messages, whole)
        if spans is None:
            spans = self._between_marks(messages, whole, self._template.render(_marked(messages), tools))
        if spans is None:
            spans = self._one_by_one(messages, tools, whole)
        if self._eos and not self._frame.after and spans and spans[-1][1] == len(whole):
            whole += self._eos  # a template that never ends an answer would teach to go on for ever
            spans[-1] = (spans[-1][0], len(whole))
        return self._chosen(whole, spans, messages)

    def _chosen(self, text: str, spans: list[Span], messages: Sequence[Message]) -> Rendered:
        """What of the answers counts by the setting and by the messages' own weights."""
        if self._loss_on == "all":
            return Rendered(text, ((0, len(text)),))
        answers = [message for message in messages if message["role"] == "assistant"]
        kept = [span for span, message in zip(spans, answers, strict=True) if message.get("weight") != 0]
        return Rendered(text, tuple(kept[-1:] if self._loss_on == "last" else kept))

    @cached_property
    def _frame(self) -> AnswerFrame:
        return frame_of(self._template)

    def _behind_prompts(self, messages: Sequence[Message], whole: str) -> list[Span] | None:
        """The answers' spans where each stands right behind one of the generation prompts; else None."""
        before, after = self._frame.before, self._frame.after
        if not before or not after or whole.count(before) != _count(messages):
            return None
        place, spans = 0, list[Span]()
        for message in messages:
            if message["role"] != "assistant":
                continue
            start = whole.find(before, place) + len(before)
            end = start + len(message["content"])
            if "tool_calls" in message or not whole.startswith(message["content"] + after, start):
                return None
            place = end + len(after)
            spans.append((start, place))
        return spans

    def _between_marks(self, messages: Sequence[Message], whole: str, marked: str) -> list[Span] | None:
        """The answers' spans, or None where the text is not the marked one with the answers put in."""
        pieces, answers = _cut(marked, messages)
        if pieces is None or not whole.startswith(pieces[0]):
            return None
        place, spans = len(pieces[0]), list[Span]()
        starts: dict[int, int] = {}
        for part, (number, text) in enumerate(answers):
            before, after = pieces[part], pieces[part + 1]
            end = _end_of(text, whole, place, after, last=part == len(answers) - 1)
            if end is None:
                return None
            starts.setdefault(number, place - self._frame.written_before(before))
            if part + 1 == len(answers) or answers[part + 1][0] != number:  # the last mark of its message
                has_calls = "tool_calls" in messages[number]
                spans.append((starts[number], end + self._frame.written_after(after, has_calls)))
            place = end + len(after)
        return spans if place == len(whole) and len(spans) == _count(messages) else None

    def _one_by_one(self, messages: Sequence[Message], tools: Tools, whole: str) -> list[Span]:
        """Each answer's span by what moves when PROBE is added to its end. Raises BadRow where nothing does."""
        spans: list[Span] = []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            done = spans[-1][1] if spans else 0
            probed = [*messages[:number], _with_probe(message), *messages[number + 1 :]]
            moved = self._template.render(probed, tools)
            end = common_prefix(whole, moved)
            if moved == whole or end <= done:
                raise BadRow(LOST)
            start = self._frame.start(whole, done, end)
            if start is None:
                opened = [*messages[:number], _with_probe(message, first=True), *messages[number + 1 :]]
                start = common_prefix(whole, self._template.render(opened, tools))
            end += self._frame.written_after(whole[end:], "tool_calls" in message)
            if not done <= start < end:
                raise BadRow(LOST)
            spans.append((start, end))
        return spans


def _marked(messages: Sequence[Message]) -> list[Message]:
    """The conversation with marks in place of answers and of the names of called tools."""
    found: list[Message] = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            found.append(message)
            continue
        made = {key: value for key, value in message.items() if key != "weight"}
        if message["content"]:
            made["content"] = MARK.format(number)
        if "tool_calls" in message:
            made["tool_calls"] = [
                {**call, "function": {**call["function"], "name": MARK.format(f"{number}t{place}")}}
                for place, call in enumerate(message["tool_calls"])
            ]
        found.append(made)
    return found


def _marks(messages: Sequence[Message]) -> Iterator[tuple[int, str, str]]:
    """(number of the message, mark, text that it stands for), in the order of their places."""
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            if message["content"]:
                yield number, MARK.format(number), message["content"]
            for place, call in enumerate(message.get("tool_calls", ())):
                yield number, MARK.format(f"{number}t{place}"), call["function"]["name"]


def _cut(marked: str, messages: Sequence[Message]) -> tuple[list[str] | None, list[tuple[int, str]]]:
    """The text between the marks; None where one is missing, doubled or out of its order."""
    pieces, answers, rest = [], list[tuple[int, str]](), marked
    for number, mark, text in _marks(messages):
        before, found, rest = rest.partition(mark)
        if not found or mark in rest:
            return None, []
        pieces.append(before)
        answers.append((number, text))
    return [*pieces, rest], answers


def _end_of(answer: str, whole: str, place: int, after: str, last: bool) -> int | None:
    """Where an answer ends that begins at `place` and has `after` behind it; None where it does not stand there."""
    for text in (answer, answer.strip()):
        end = place + len(text)
        if (
            whole.startswith(text, place)
            and whole.startswith(after, end)
            and (not last or end + len(after) == len(whole))
        ):
            return end
    end = len(whole) - len(after) if last else whole.find(after, place)
    if end < place or not whole.startswith(after, end) or whole[place:end].strip() not in answer:
        return None
    return end


def _with_probe(message: Message, first: bool = False) -> Message:
    """The message with something added to the end of what is in it, or to its beginning."""
    if message["content"] or "tool_calls" not in message:
        text = message["content"]
        return {**message, "content": PROBE + text if first else text + PROBE}
    *calls, last = message["tool_calls"]
    name = last["function"]["name"]
    changed = {**last, "function": {**last["function"], "name": PROBE + name if first else name + PROBE}}
    return {**message, "tool_calls": [*calls, changed]}


def _count(messages: Sequence[Message]) -> int:
    return sum(message["role"] == "assistant" for message in messages)


def _plain(messages: Sequence[Message], eos: str) -> tuple[str, list[Span]]:
    """The texts one after the other, each on a line of its own; answers end with EOS."""
    text, spans = "", list[Span]()
    for message in messages:
        content: str = message["content"]
        if message["role"] == "assistant":
            spans.append((len(text), len(text) + len(content) + len(eos)))
            text += content + eos
        else:
            text += content + ("" if not content or content[-1].isspace() else "\n")
    return text, spans
