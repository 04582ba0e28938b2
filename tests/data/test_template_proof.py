"""The mask against other judges: marks in TRL's templates, what answering adds to a prompt, distinctive words; and
random conversations, of which exactly the assistant's parts count."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.support import templates
from tests.support.random_chats import FRAMES, Frame, conversation
from tests.support.template_proof import KINDS, judge_of, shipped
from trainer.config.schema import DataConfig
from trainer.data.masking.chat_templates import choose
from trainer.data.masking.encoding import Encoder
from trainer.data.masking.loss_mask import LossMasker, Rendered
from trainer.data.rows.messages import Message

CONVERSATIONS = 100
EDGES: tuple[Callable[[str], str], ...] = (str, str.strip, str.rstrip, lambda text: text.lstrip("\n"))
"""What templates do to the white space around a text."""


@pytest.mark.parametrize("name", shipped())
def test_every_kind_of_conversation_counts_right_or_is_refused(name: str) -> None:
    judge = judge_of(name)
    found = {kind: judge.verdict(kind) for kind in KINDS}
    assert {kind: verdict.reason for kind, verdict in found.items() if verdict.state == "wrong"} == {}
    assert {kind for kind, verdict in found.items() if verdict.state == "refused"} <= {"tools"}


@pytest.mark.parametrize("name", FRAMES)
def test_of_random_conversations_exactly_what_the_assistant_writes_counts(name: str) -> None:
    frame, rng = FRAMES[name], random.Random(7)
    tokenizer = templates.tokenizer(frame.template)
    template = choose(DataConfig(), tokenizer, {"chat": 1})
    chats = [conversation(rng, frame) for _ in range(CONVERSATIONS)]
    found = LossMasker(template, DataConfig()).all([{"messages": messages} for messages in chats])
    for messages, rendered in zip(chats, found, strict=True):
        assert isinstance(rendered, Rendered), (messages, rendered)
        ((ids, spans),) = Encoder(tokenizer, template)([rendered], [False])
        counted = [tokenizer.decode(ids[first:last], clean_up_tokenization_spaces=False) for first, last in spans]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == rendered.text
        wanted = [
            {written(frame, message, how, message is messages[-1]) for how in EDGES}
            for message in messages
            if message["role"] == "assistant" and message.get("weight") != 0
        ]
        assert len(counted) == len(wanted), (messages, counted)
        for text, any_of in zip(counted, wanted, strict=True):
            assert text in any_of, (text, any_of, rendered.text)


def written(frame: Frame, message: Message, how: Callable[[str], str], last: bool) -> str:
    """What the assistant writes for a message, `how` done to the edges of its texts."""
    texts: Message = {key: how(message[key]) for key in ("content", "reasoning_content") if key in message}
    return frame.written(message | texts, last)
