"""What a chat template writes before and after an answer, and which part of that the model generates."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.data.chat_templates import Template
from trainer.data.conversations import BadRow, Message

MARK = "Qz{}LabZq"
"""Stands for an answer; plain letters, so that no template does anything to it."""
LOST = "the chat template leaves an answer out"


@dataclass(frozen=True)
class AnswerFrame:
    """What a template writes around an answer."""

    before: str
    """The generation prompt: what a model is given before it answers."""
    after: str
    """What ends an answer, without spaces behind it; empty where a template ends none."""
    stops: tuple[int, ...]
    """Where in `after` a special token ends: an answer in the middle may end with the first ones only."""

    def written_before(self, text: str) -> int:
        """Characters of `text`, which ends where an answer begins, that the model writes itself."""
        place = text.rfind(self.before) if self.before else -1
        return len(text) - place - len(self.before) if place >= 0 else 0

    def written_after(self, text: str, has_calls: bool) -> int:
        """Characters at the start of `text`, which follows an answer, that the model writes itself."""
        if has_calls and self.after:
            place = text.find(self.after)
            return place + len(self.after) if place >= 0 else 0
        shared = common_prefix(text, self.after)
        if shared == len(self.after):
            return shared
        return max((stop for stop in self.stops if stop <= shared), default=shared)

    def start(self, whole: str, first: int, last: int) -> int | None:
        """Where the answer that ends at `last` begins, by what stands before it."""
        for size in range(len(self.before), max(len(self.before) // 2, 3) - 1, -1):
            place = whole.rfind(self.before[:size], first, last)
            if place >= 0:
                return place + size
        return None


def frame_of(template: Template) -> AnswerFrame:
    """Found by rendering one answer. Raises BadRow where the template leaves it out."""
    ask: list[Message] = [{"role": "user", "content": MARK.format("u")}]
    answer: Message = {"role": "assistant", "content": MARK.format("a")}
    whole = template.render([*ask, answer])
    plain, asked = template.render(ask), template.render(ask, ask=True)
    before = asked[common_prefix(plain, asked) :]
    _, found, after = whole.partition(MARK.format("a"))
    if not found:
        raise BadRow(LOST)
    after = after.rstrip()
    known = {*template.tokenizer.all_special_tokens, *template.tokenizer.get_added_vocab()}
    stops = {place + len(token) for token in known if token and (place := after.find(token)) >= 0}
    return AnswerFrame(before, after, tuple(sorted(stops)))


def common_prefix(first: str, second: str) -> int:
    """How many characters two texts share at their beginning."""
    if second.startswith(first):
        return len(first)
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[:middle] == second[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
