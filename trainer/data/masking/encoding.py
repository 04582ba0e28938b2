"""Rendered texts as tokens, and which of the tokens count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from trainer.data.masking.chat_templates import Template
from trainer.data.masking.loss_mask import Rendered, Span

Encoded = tuple[list[int], list[Span]]
"""input_ids, and the ranges of them that count, in rising order and apart from each other."""


class Encoder:
    """Rendered texts to tokens and what of them counts."""

    def __init__(self, tokenizer: Any, template: Template) -> None:
        self._tokenizer, self._template = tokenizer, template
        self._bos, self._eos = tokenizer.bos_token_id, tokenizer.eos_token_id

    def __call__(self, texts: Sequence[Rendered], plain: Sequence[bool]) -> list[Encoded]:
        """The tokens of each text; `plain` ones get the tokenizer's BOS whatever the template."""
        if not texts:
            return []
        special = self._template.adds_special_tokens
        if special or not any(plain):
            return self._encode(texts, special)
        found: list[Any] = [None] * len(texts)
        for chosen in (True, False):
            places = [place for place, is_plain in enumerate(plain) if is_plain == chosen]
            for place, item in zip(places, self._encode([texts[place] for place in places], chosen), strict=True):
                found[place] = item
        return found

    def _encode(self, texts: Sequence[Rendered], special: bool) -> list[Encoded]:
        if not texts:
            return []
        if not self._tokenizer.is_fast:
            return [self._in_pieces(text, special) for text in texts]
        encoded = self._tokenizer(
            [text.text for text in texts], add_special_tokens=special, return_attention_mask=False, verbose=False
        )
        return [
            self._finished(ids, counted_tokens(text.spans, encoding, text.text))
            for text, ids, encoding in zip(texts, encoded["input_ids"], encoded.encodings, strict=True)
        ]

    def _in_pieces(self, text: Rendered, special: bool) -> Encoded:
        """For tokenizers that cannot say where a token stands: what counts and what does not, one after the other."""
        bos = self._tokenizer.bos_token_id
        ids: list[int] = [bos] if special and bos is not None else []
        counts: list[Span] = []
        for piece, counted in _pieces(text.text, text.spans):
            start = len(ids)
            ids += self._tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]
            if counted:
                counts.append((start, len(ids)))
        return self._finished(ids, counts)

    def _finished(self, ids: list[int], counts: list[Span]) -> Encoded:
        if len(ids) > 1 and ids[-1] == ids[-2] == self._eos:  # the tokenizer added a second end
            ids = ids[:-1]
        if len(ids) > 1 and ids[0] == ids[1] == self._bos:  # the text brought its own
            ids, counts = ids[1:], [(first - 1, last - 1) for first, last in counts]
        found, start = list[Span](), 1  # nothing stands before the first token to tell it from
        for first, last in counts:
            first, last = max(first, start), min(last, len(ids))
            if first < last:
                found.append((first, last))
                start = last
        return ids, found


def counted_tokens(spans: Sequence[Span], encoding: Any, text: str) -> list[tuple[int, int]]:
    """The ranges of tokens that hold any character of `spans`, from a fast tokenizer's encoding."""
    found = []
    for first, last in spans:
        start = _token(encoding, range(first, last))
        if start is None:
            continue
        final = _token(encoding, range(last - 1, -1, -1)) or 0
        after = _token(encoding, range(last, len(text)))
        found.append((start, max(after, final + 1) if after is not None else _end(encoding)))
    return found


def _token(encoding: Any, places: range) -> int | None:
    """The token at the first of these characters that belongs to one: tokenizers leave spaces out."""
    for at in places:
        token: int | None = encoding.char_to_token(at)
        if token is not None:
            return token
    return None


def _end(encoding: Any) -> int:
    """Behind the last token that stands for something in the text."""
    end = len(encoding)
    while end and (encoding.token_to_chars(end - 1) or (0, 0))[1] == 0:
        end -= 1
    return end


def _pieces(text: str, spans: Sequence[Span]) -> Iterator[tuple[str, bool]]:
    place = 0
    for first, last in spans:
        if first > place:
            yield text[place:first], False
        if last > first:
            yield text[first:last], True
        place = last
    if place < len(text):
        yield text[place:], False
