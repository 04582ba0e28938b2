"""The loss mask with tokenizers and chat templates as they are published."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from tools.real_model import TOKENIZERS
from trainer.config.schema import DataConfig
from trainer.data.chat_templates import choose
from trainer.data.encoding import Encoder
from trainer.data.loss_mask import LossMasker

CHAT = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "Is it? Yes. or No."},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Yes.\n\nAnd  now?"},
    {"role": "assistant", "content": "No."},
]
COUNTED = {
    "llama2": ["Yes.<|im_end|>", "No.<|im_end|>"],  # no template of its own: ChatML
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
