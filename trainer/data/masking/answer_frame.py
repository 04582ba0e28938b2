"""What a chat template writes before and after an answer, and which part of that the model generates."""

from __future__ import annotations

import re
from dataclasses import dataclass

from trainer.data.masking.answer_parts import MARK, common_prefix
from trainer.data.masking.chat_templates import Template
from trainer.data.rows.messages import BadRow, Message

LOST = "the chat template leaves an answer out"
MARKUP = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z_]{2,30}\]")
"""What looks like a special token."""
EMPTY = re.compile(r"<think>\s*</think>")
LEAST = 3
"""Characters of a generation prompt that are enough to recognize it."""
CONTEXT = 24
"""Characters before a generation prompt that are looked for together with it."""


@dataclass(frozen=True)
class AnswerFrame:
    """What a template writes around an answer of content alone."""

    before: str
    """The generation prompt: what a model is given before it answers."""
    after: str
    """What comes after the last answer, up to the end of the text, without spaces at its end."""
    between: str
    """What ends an answer that is followed by more; empty where the next header alone does."""
    always: str
    """The generation prompt, where the template ends every text with it, whether one is asked for or not."""
    ends: tuple[str, ...]
    """Special tokens."""

    def start(self, gap: str, asked: str | None) -> int | None:
        """Where in `gap`, which ends where an answer's first text begins, the answer begins.

        `asked`: the conversation before it, rendered with its generation prompt; None looks for `before` alone,
        and gives None where it is not there.
        """
        if asked is None:
            at = gap.rfind(self.before) if self.before else -1
            return at + len(self.before) if at >= 0 else None
        prompt = self.before if self.before and asked.endswith(self.before) else ""
        context = asked[: len(asked) - len(prompt)][-CONTEXT:]
        for size in _cuts(prompt):
            for lead in (context, "") if size >= LEAST else (context,):
                wanted = lead + prompt[:size]
                at = gap.rfind(wanted) if wanted else -1
                if at >= 0 and (lead or 2 * size >= len(prompt) or _is_header(prompt[:size])):
                    return at + len(wanted)
        shared = next((size for size in range(len(context), 0, -1) if context[-size:] in gap), 0)
        return gap.rfind(context[-shared:]) + shared if shared >= LEAST and not prompt else None

    def end(self, gap: str, tail: str) -> int:
        """How much of `gap`, which comes after an answer's last text, belongs to the answer.

        `tail`: what comes after it where it is the last message. Spaces after the end token do not belong to it.
        """
        end = tail.rstrip().removesuffix(self.always).rstrip()
        if not self.after and gap.startswith(end + self.between):  # some end only answers that are followed by more
            return len(end + self.between)
        shared = common_prefix(gap, end)
        rest, more = end[shared:].lstrip(), gap[shared:]
        if more.lstrip().startswith(rest):  # some write another line break where more follows
            return shared + (len(more) - len(more.lstrip()) + len(rest) if rest else 0)
        stops = [stop for stop in self._stops(gap) if stop <= shared]
        if stops:
            return stops[-1]
        first = next(iter(self._stops(gap)), 0)  # another token where more follows: gpt-oss ends with <|return|>
        return first if first and shared and next(iter(self._stops(end)), 0) else 0

    def has_end_token(self, text: str) -> bool:
        """Whether a special token ends `text`."""
        return text.endswith(self.ends)

    def _stops(self, text: str) -> list[int]:
        """Where in `text` something ends that is or looks like a special token."""
        found = {match.end() for match in MARKUP.finditer(text)}
        found |= {at + len(token) for token in self.ends if (at := text.find(token)) >= 0}
        return sorted(found)


def _cuts(prompt: str) -> list[int]:
    """Lengths of the generation prompt to look for: all of it, then up to each piece of markup or with it."""
    found = {len(prompt), *(match.start() for match in MARKUP.finditer(prompt))}
    found |= {match.end() for match in MARKUP.finditer(prompt)} | {len(prompt.rstrip())}
    whole = [size for size in found if prompt[:size].count("<think>") == prompt[:size].count("</think>")]
    return sorted({len(prompt), *whole} - ({0} if prompt else set()), reverse=True)


def _is_header(text: str) -> bool:
    return MARKUP.search(text) is not None


def whole_markup(text: str, place: int) -> int:
    """The start of the markup that `place` stands within; else `place`."""
    return next((match.start() for match in MARKUP.finditer(text) if match.start() < place < match.end()), place)


def frame_of(template: Template) -> AnswerFrame:
    """Found by rendering one answer. Raises BadRow where the template leaves it out."""
    question, answer, more = (MARK.format(name) for name in ("0u", "1c", "2u"))
    ask: list[Message] = [{"role": "user", "content": question}]
    answered = [*ask, {"role": "assistant", "content": answer}]
    plain, asked = template.render(ask), template.render(ask, ask=True)
    before = asked[whole_markup(asked, common_prefix(plain, asked)) :]
    whole = template.render(answered)
    opening, found, after = whole.partition(answer)
    if not found:
        raise BadRow(LOST)
    longer = template.render([*answered, {"role": "user", "content": more}])
    gap = longer.partition(answer)[2].partition(more)[0]
    always = "" if before else _always(after, gap, plain.partition(question)[2])
    header = common_prefix(gap[::-1], opening.partition(question)[0][::-1])
    return AnswerFrame(
        before=before or always,
        after=after.rstrip().removesuffix(always).rstrip(),
        between=gap[: len(gap) - header].rstrip(),
        always=always,
        ends=tuple(template.special_tokens),
    )


def _always(after: str, gap: str, after_question: str) -> str:
    """The generation prompt at the end of `after`, which a template writes that ends every text with one.

    It comes after the end token, which is the one that ends questions, too.
    """
    end = MARKUP.search(after_question)
    shared = after[: common_prefix(after, gap)]
    at = shared.rfind(end[0]) if end else -1
    return after[at + len(end[0]) :].strip() if end and at >= 0 else ""


@dataclass(frozen=True)
class ReasoningFrame:
    """What a chat template writes around reasoning, where it keeps it."""

    prompt: str
    """What of the generation prompt opens the reasoning; empty where it does not."""
    opening: str
    closing: str
    """What comes between reasoning and content."""

    def missing_prompt(self, text: str) -> str:
        """What is missing at the end of `text`, so that it ends as the generation prompt does."""
        return "" if text.endswith(self.prompt) else self.prompt

    def around(self, reasoning: str, opening: str, prompted: bool) -> str:
        """The reasoning with its frame; `opening` is what the template writes before content without reasoning."""
        opening = EMPTY.sub("", opening, 1).strip()
        closing = self.closing if self.closing.endswith(opening) else self.closing + opening
        return ("" if prompted or self.prompt else self.opening) + reasoning + closing


def reasoning_frame(template: Template, frame: AnswerFrame) -> ReasoningFrame:
    """Found by rendering one answer with reasoning; <think> tags where the template never renders any."""
    at = frame.before.rfind("<think>")
    prompt = frame.before[at:] if at >= 0 and "</think>" not in frame.before[at:] else ""
    ask, thought, said = (MARK.format(name) for name in ("0u", "1r", "1c"))
    for answer in (
        {"content": said, "reasoning_content": thought},
        {"content": f"<think>\n{thought}\n</think>\n\n{said}"},
    ):
        try:
            text = template.render([{"role": "user", "content": ask}, {"role": "assistant", **answer}])
        except BadRow:
            continue
        before, found, rest = text.partition(thought)
        closing, also, _ = rest.partition(said)
        start = frame.start(before, None)
        if found and also and start is not None:
            return ReasoningFrame(prompt, before[start:], closing)
    return ReasoningFrame(prompt, "<think>\n", "\n</think>\n\n")
