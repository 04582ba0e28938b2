"""The loss mask with tokenizers and chat templates as they are published."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from tests.support.template_proof import CALL, KINDS, RESULT, TOOL, Judge, answer, user
from tools.real_model import TOKENIZERS
from trainer.config.schema import DataConfig
from trainer.data.masking.chat_templates import choose
from trainer.data.masking.encoding import Encoder
from trainer.data.masking.loss_mask import LossMasker
from trainer.data.rows.messages import BadRow

CHAT = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "Is it? Yes. or No."},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Yes.\n\nAnd  now?"},
    {"role": "assistant", "content": "No."},
]
COUNTED = {
    "llama2": ["Yes.<|im_end|>", "No.<|im_end|></s>"],  # no template of its own: ChatML, whose end is no token of it
    "llama3_1": ["Yes.<|eot_id|>", "No.<|eot_id|>"],
    "qwen3": ["Yes.<|im_end|>", "<think>\n\n</think>\n\nNo.<|im_end|>"],
    "deepseek_v3": ["Yes.<｜end▁of▁sentence｜>", "No.<｜end▁of▁sentence｜>"],
}


@pytest.mark.parametrize("name", COUNTED)
def test_the_assistants_tokens_count_with_their_end_and_no_others(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS / name)
    template = choose(DataConfig(), tokenizer, {"chat": 1})
    rendered = LossMasker(template, DataConfig()).one({"messages": CHAT})
    ((ids, ranges),) = Encoder(tokenizer, template)([rendered], [False])
    assert [tokenizer.decode(ids[first:last]) for first, last in ranges] == COUNTED[name]
    bos = tokenizer.bos_token or ""
    shown = tokenizer.decode(ids).removeprefix(bos).removeprefix(" ")  # SentencePiece decodes a first space
    assert shown == rendered.text.removeprefix(bos), "no token is added or lost"
    assert ids.count(tokenizer.bos_token_id) == (tokenizer.bos_token is not None), "one BOS, where there is one"


REASONED = [
    user("Uzero asks"),
    answer("Azero replies.", reasoning_content="Rzero thought"),
    user("Uone asks"),
    answer("", reasoning_content="Rone thought", tool_calls=[CALL]),
    RESULT,
    answer("Aone replies."),
]


def test_qwen3_counts_reasoning_and_tool_calls_that_it_renders() -> None:
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS / "qwen3")
    rendered = LossMasker(choose(DataConfig(), tokenizer, {"chat": 1}), DataConfig()).one(
        {"messages": REASONED, "tools": [TOOL]}
    )
    call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zurichcity"}}\n</tool_call>'
    assert [rendered.text[first:last] for first, last in rendered.spans] == [
        "Azero replies.<|im_end|>",
        f"<think>\nRone thought\n</think>\n\n{call}<|im_end|>",
        "<think>\n\n</think>\n\nAone replies.<|im_end|>",
    ]
    assert rendered.dropped == ("reasoning",)


@pytest.mark.parametrize("name", ["llama2", "llama3_1", "deepseek_v3"])
def test_tool_calls_that_a_template_leaves_out_refuse_the_row(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS / name)
    masker = LossMasker(choose(DataConfig(), tokenizer, {"chat": 1}), DataConfig())
    with pytest.raises(BadRow, match="leaves a tool call out"):
        masker.one({"messages": KINDS["tools"], "tools": [TOOL]})


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_conversation_counts_right_or_is_refused(name: str, kind: str) -> None:
    found = Judge(AutoTokenizer.from_pretrained(TOKENIZERS / name)).verdict(kind)
    assert found.state == "right" or (found.state == "refused" and kind == "tools"), found.reason
