"""Tests a loss mask against serving: each answer's prompt is rebuilt the way a server builds it, and compared.

A server renders the conversation before an answer with the template's generation prompt. A model learns the answer
after that prompt only if the training text up to the answer is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from trainer.config.schema import DataConfig
from trainer.data.masking.answer_frame import whole_markup
from trainer.data.masking.answer_parts import common_prefix, marked
from trainer.data.masking.chat_templates import Template, Tools
from trainer.data.masking.encoding import Encoder
from trainer.data.masking.loss_mask import JOINED, LossMasker, Rendered, plain_text
from trainer.data.masking.message_forms import merged
from trainer.data.rows.messages import BadRow, Example, Message

MOST_ANSWERS = 40
"""Answers of one example that are tested: each needs the conversation rendered and tokenized once more."""
AROUND, SHOWN = 60, 800
"""Characters shown around a difference, and of a text."""

DROPS = (
    "A server still has earlier reasoning in its prompt; the template takes it out of the training text, because the "
    "conversation goes on. Train the last answers alone (loss_on: last) to avoid it."
)
KEPT = "The training text keeps earlier reasoning (reasoning: keep); a server leaves it out of its prompts."
HEADER = "The generation prompt opens the answer with text that this answer does not have."
OTHER = "The template renders the messages before this answer differently when the conversation goes on."
FIRST = "The conversation begins with this answer: a server has no prompt for it."
EXPECTED = (DROPS, KEPT)
"""Differences that come from how the template treats reasoning, not from a wrong mask."""


def mask_test(example: Example, template: Template, data: DataConfig, max_length: int) -> dict[str, Any]:
    """Compares a training example with serving, answer by answer.

    Returns {"whole", "answers", "more", "uncounted"}. `whole`: why there is no answer to test, else "". `more`:
    answers beyond MOST_ANSWERS. `uncounted`: answers that do not count. `answers`: [{
    "message": its number, from 1 on; "kind": answer or tool call;
    "same": whether the training text up to the answer is the server's prompt, None if there is no such prompt;
    "why": a sentence if it is not; "expected": whether the template's treatment of reasoning explains it;
    "difference": None or {"before", "serving", "training", "after"};
    "joins": the answer's first token, if it begins within the prompt;
    "counted": what counts; "hidden": how many characters of it are not shown; "missing": kinds of content not in it;
    "end": the special token that ends it, or ""; "is_eos"; "cut": whether it goes on beyond `max_length` tokens}].
    Raises BadRow for a row that the template refuses.
    """
    if "text" in example:
        return {"whole": "Plain text has no prompt: all of it counts.", "answers": [], "more": 0, "uncounted": 0}
    # with loss on all tokens, the answers are where they are with loss on the answers
    masker = LossMasker(template, replace(data, loss_on="completion") if data.loss_on == "all" else data)
    found = masker.one(example)
    messages = template.conversation(example)
    if JOINED in found.notes:
        messages = merged(messages)
    answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    counted = [number for number in answers if messages[number].get("weight") != 0]
    counted = counted[-1:] if data.loss_on == "last" else counted
    test = _Test(template, example, messages, found, max_length)
    tested = [test.answer(*pair) for pair in islice(zip(counted, found.spans, strict=True), MOST_ANSWERS)]
    return {
        "whole": "",
        "answers": tested,
        "more": len(counted) - len(tested),
        "uncounted": len(answers) - len(counted),
    }


class _Test:
    def __init__(
        self, template: Template, example: Example, messages: Sequence[Message], found: Rendered, max_length: int
    ) -> None:
        self._template, self._example, self._messages = template, example, messages
        self._found, self._max_length = found, max_length
        self._encode = Encoder(template.tokenizer, template)
        self._eos = template.tokenizer.eos_token or ""
        self._ends = sorted({*template.special_tokens, self._eos} - {""}, key=len, reverse=True)

    def answer(self, number: int, span: tuple[int, int]) -> dict[str, Any]:
        """What serving and training make of one answer, which counts from `span[0]` to `span[1]`."""
        text = self._found.text
        counted = text[slice(*span)]
        ids, ranges = self._tokens(Rendered(text, (span,)))
        end = next((token for token in self._ends if counted.rstrip().endswith(token)), "")
        return {
            "message": number + 1,
            "kind": "tool call" if "tool_calls" in self._messages[number] else "answer",
            **self._compared(number, text[: span[0]], ids, ranges),
            "counted": counted[:SHOWN],
            "hidden": max(len(counted) - SHOWN, 0),
            "missing": list(dict.fromkeys(self._missing(number, counted))),
            "end": end,
            "is_eos": bool(end) and end == self._eos,
            "cut": any(last > self._max_length for _, last in ranges),
        }

    def _compared(
        self, number: int, training: str, ids: list[int], ranges: Sequence[tuple[int, int]]
    ) -> dict[str, Any]:
        """The server's prompt and the training text up to the answer."""
        result: dict[str, Any] = {
            "same": None, "why": "", "expected": False, "difference": None, "joins": "",
        }  # fmt: skip
        if number == 0:
            return result | {"why": FIRST}
        try:
            serving = self._prompt(number)
        except BadRow as error:
            return result | {"why": f"A server cannot ask for it: {error}."}
        if serving != training:
            difference = _difference(serving, training)
            why = self._why(number, serving, training)
            return result | {"same": False, "why": why, "expected": why in EXPECTED, "difference": difference}
        return result | {"same": True, "joins": self._joined(serving, ids, ranges)}

    def _joined(self, prompt: str, ids: list[int], ranges: Sequence[tuple[int, int]]) -> str:
        """The first token of the answer, where it begins within the prompt; a server's prompt has another there."""
        if not ranges or not self._template.tokenizer.is_fast:
            return ""
        first = ranges[0][0]
        alone, _ = self._tokens(Rendered(prompt, ()))
        if len(alone) <= first or alone[:first] != ids[:first]:
            return ""
        return str(self._template.tokenizer.decode(ids[first : first + 1]))[:AROUND]

    def _prompt(self, number: int) -> str:
        """What a server hands to the model before it writes message `number`."""
        before = self._messages[:number]
        if self._template.kind == "plain":
            return plain_text(before, self._eos, self._example.get("verbatim", False))[0]
        return self._template.render(before, self._tools, ask=True)

    @property
    def _tools(self) -> Tools:
        tools: Tools = self._example.get("tools")
        return tools

    def _tokens(self, text: Rendered) -> tuple[list[int], list[tuple[int, int]]]:
        ((ids, ranges),) = self._encode([text], [False])
        return ids, ranges

    def _missing(self, number: int, counted: str) -> Iterator[str]:
        """Kinds of content that the answer has and the loss does not count."""
        for part in marked(self._messages)[1].values():
            if part.message == number and _letters(part.text) not in _letters(counted):
                yield "text beside the tool call" if part.part == "content" else part.part

    def _why(self, number: int, serving: str, training: str) -> str:
        reasoning = [
            part.text
            for part in marked(self._messages)[1].values()
            if part.part == "reasoning" and part.message < number
        ]
        if any(text in serving and text not in training for text in reasoning):
            return DROPS
        if any(text in training and text not in serving for text in reasoning):
            return KEPT
        start = common_prefix(serving, training)
        return HEADER if start == len(training) else OTHER


def _letters(text: str) -> str:
    """A text without its white space, which templates strip."""
    return "".join(text.split())


def _difference(serving: str, training: str) -> dict[str, str]:
    """Where two texts differ, with the text around."""
    start = common_prefix(serving, training)
    start = min(whole_markup(text, start) for text in (serving, training))
    first, second = serving[start:], training[start:]
    end = common_prefix(first[::-1], second[::-1])
    after = first[len(first) - end :]
    return {
        "before": serving[max(start - AROUND, 0) : start],
        "serving": _shortened(first[: len(first) - end]),
        "training": _shortened(second[: len(second) - end]),
        "after": after[:AROUND],
    }


def _shortened(text: str) -> str:
    half = SHOWN // 2
    return text if len(text) <= SHOWN else f"{text[:half]} … {text[-half:]}"
