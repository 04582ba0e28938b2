"""Where each answer of a rendered conversation begins and ends: with what the template writes around its texts.

An answer begins after the generation prompt, as the conversation before it, rendered with that prompt, shows. It ends
with its own end token, as the conversation up to it shows: tool calls may end with another token than text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trainer.data.masking.answer_frame import LOST, AnswerFrame, ReasoningFrame
from trainer.data.masking.answer_parts import AnswerPart, Place, aligned, marked, probed
from trainer.data.masking.chat_templates import Template, Tools
from trainer.data.rows.messages import BadRow, Message


@dataclass
class Answer:
    """One answer in a text: where it is, and how it ends."""

    message: int
    start: int
    end: int
    ending: str = ""
    """What of the text between `start` and `end` comes after the answer's own texts."""


@dataclass
class Conversation:
    """A rendered conversation whose answers are looked for."""

    template: Template
    frame: AnswerFrame
    messages: Sequence[Message]
    tools: Tools
    whole: str
    dropped: list[str] = field(default_factory=list)
    """What of the answers the template leaves out, one entry each time; reasoning is in `no_reasoning`."""
    no_reasoning: set[int] = field(default_factory=set)
    """Numbers of the answers whose reasoning is left out."""
    _places: dict[int, dict[str, Place]] = field(default_factory=dict)
    """Of each answer: where its parts are, by their marks."""
    _parts: Mapping[str, AnswerPart] = field(default_factory=dict)

    def answers(self) -> list[Answer]:
        """The answers in their order. Raises BadRow where the template leaves one out, or a tool call of it."""
        self._locate()
        found: list[Answer] = []
        numbers = [number for number, message in enumerate(self.messages) if message["role"] == "assistant"]
        firsts = {number: min(place[0] for place in self._places[number].values()) for number in numbers}
        for number, following in zip(numbers, [*numbers[1:], None], strict=True):
            done = found[-1].end if found else 0
            bound = firsts[following] if following is not None else len(self.whole)
            found.append(self._answer(number, done, firsts[number], bound))
        return found

    def _locate(self) -> None:
        with_marks, self._parts = marked(self.messages)
        places = aligned(self.whole, self.template.render(with_marks, self.tools), self._parts)
        if places is None:
            places = probed(
                self.messages, self.whole, self._parts, lambda changed: self.template.render(changed, self.tools)
            )
        for number, message in enumerate(self.messages):
            if message["role"] == "assistant":
                self._places[number] = {}
        for mark, part in self._parts.items():
            if mark in places:
                self._places[part.message][mark] = places[mark]
            elif part.part == "tool call":
                raise BadRow("the chat template leaves a tool call out")
            elif part.part == "content" and "tool_calls" in self.messages[part.message]:
                self.dropped.append("text beside tool calls")
            elif part.part == "content":
                raise BadRow(LOST)
            else:
                self.no_reasoning.add(part.message)
        if not all(self._places.values()):
            raise BadRow(LOST)

    def _answer(self, number: int, done: int, first: int, bound: int) -> Answer:
        last = max(place[1] for place in self._places[number].values())
        if not done <= first < last <= bound:
            raise BadRow(LOST)
        gap = self.whole[done:first]
        start = None
        if set(self.messages[number]) <= {"role", "content", "weight"}:
            start = self.frame.start(gap, None)
        if start is None:
            start = self.frame.start(gap, self._asked(number))
        if start is None:
            start = len(gap)
        after, tail = self.whole[last:bound], self._tail(number)
        length = self.frame.end(after, tail)
        content = self.messages[number]["content"]
        spaces = content[len(content.rstrip()) :]  # its own, before its end
        if not length and spaces and after.startswith(spaces):
            length = len(spaces) + self.frame.end(after[len(spaces) :], tail)
        return Answer(number, done + start, last + length, after[:length])

    def _asked(self, number: int) -> str:
        """The conversation before an answer, with the generation prompt."""
        if number == 0:
            return self.frame.before
        return self.template.render(self.messages[:number], self.tools, ask=True)

    def _tail(self, number: int) -> str:
        """What comes after an answer's last text where the conversation ends there."""
        if "tool_calls" not in self.messages[number]:
            return self.frame.after
        with_marks, parts = marked(self.messages[: number + 1])
        text = self.template.render(with_marks, self.tools)
        own = [mark for mark, part in parts.items() if part.message == number]
        ends = [at + len(mark) for mark in own if (at := text.find(mark)) >= 0]
        tail = text[max(ends) :] if ends else ""
        for mark in own:  # some write a tool's name twice: in the header and in the call
            tail = tail.replace(mark, parts[mark].text)
        return tail

    def with_reasoning(self, answers: Sequence[Answer], frame: ReasoningFrame) -> tuple[str, list[Answer]]:
        """The text and its answers with the reasoning put back that the template leaves out."""
        text, found, at = "", list[Answer](), 0
        for answer in answers:
            parts = [part for part in self._parts.values() if part.message == answer.message]
            lost = [
                part for part in parts if part.part == "reasoning" and part.mark not in self._places[part.message]
            ]
            first = min(place[0] for place in self._places[answer.message].values())
            text += self.whole[at : answer.start]
            missing = frame.missing_prompt(text) if lost else ""
            text += missing
            start = len(text)
            if lost:
                reasoning = "\n\n".join(part.text for part in lost)
                text += frame.around(reasoning, self.whole[answer.start : first], bool(missing))
            text += self.whole[first if lost else answer.start : answer.end]
            at = answer.end
            found.append(Answer(answer.message, start, len(text), answer.ending))
        self.no_reasoning.clear()
        return text + self.whole[at:], found
