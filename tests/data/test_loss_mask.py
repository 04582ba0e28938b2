"""What counts for the loss: on the template of every well-known family, in every kind of conversation."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import templates, tiny
from tests.support.templates import FAMILIES
from trainer.config.schema import DataConfig
from trainer.data.chat_templates import choose
from trainer.data.conversations import BadRow
from trainer.data.encoding import Encoder
from trainer.data.loss_mask import LossMasker, Rendered
from trainer.data.preview import pieces

SYSTEM = {"role": "system", "content": "Answer briefly."}
USER, MORE = {"role": "user", "content": "Is it? Yes. or No."}, {"role": "user", "content": "Yes.\n\nAnd  now?"}
YES, NO = {"role": "assistant", "content": "Yes."}, {"role": "assistant", "content": "No."}


def masker(template: str | None, loss_on: Any = "completion", **settings: Any) -> LossMasker:
    tokenizer = templates.tokenizer(template)
    data = DataConfig(loss_on=loss_on, **settings)
    return LossMasker(choose(data, tokenizer, {"chat": 1}), data)


def counted(found: Rendered) -> list[str]:
    return [found.text[first:last] for first, last in found.spans]


def by_tokens(found: Rendered, template: str, **settings: Any) -> tuple[str, str]:
    """The same through the tokenizer: (text of all tokens, text of those that count)."""
    tokenizer = templates.tokenizer(template)
    ((ids, ranges),) = Encoder(tokenizer, choose(DataConfig(**settings), tokenizer, {}))([found], [False])
    return tokenizer.decode(ids), tokenizer.decode([token for first, last in ranges for token in ids[first:last]])


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_count_and_nothing_else(name: str) -> None:
    family = FAMILIES[name]
    messages = [USER, YES, MORE, NO]
    found = masker(family.template).one({"messages": messages})
    assert counted(found) == list(family.counted)
    text, kept = by_tokens(found, family.template)
    assert text == found.text
    assert kept == "".join(family.counted)
    (again,) = masker(family.template).all([{"messages": messages}])
    assert again == found


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_answer_alone_and_everything(name: str) -> None:
    family = FAMILIES[name]
    messages = [USER, YES, MORE, NO]
    assert counted(masker(family.template, "last").one({"messages": messages})) == [family.counted[1]]
    everything = masker(family.template, "all").one({"messages": messages})
    assert counted(everything) == [everything.text]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_system_message_is_in_the_text_whatever_the_template_takes(name: str) -> None:
    family = FAMILIES[name]
    found = masker(family.template).one({"messages": [SYSTEM, USER, NO]})
    assert counted(found) == [family.counted[1]]
    folded = found.text.partition(SYSTEM["content"] + "\n\n" + USER["content"])[1] != ""
    assert folded == (not family.system)
    assert SYSTEM["content"] in found.text


@pytest.mark.parametrize("name", ["Mistral", "Gemma"])
def test_strict_turns_are_made_where_a_template_wants_them(name: str) -> None:
    family = FAMILIES[name]
    joined, good = masker(family.template).all([{"messages": [USER, MORE, NO]}, {"messages": [USER, NO]}])
    assert isinstance(joined, Rendered)
    assert isinstance(good, Rendered)
    assert counted(joined) == counted(good) == [family.counted[1]]
    assert joined.notes
    assert not good.notes
    (refused,) = masker(family.template).all([{"messages": [{"role": "tool", "content": "rain"}, NO]}])
    assert isinstance(refused, BadRow)
    assert "refuses" in str(refused)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    "answer",
    ["Is it? Yes. or No.", "  spaced  ", "Yes.", "<|im_start|>assistant\nYes.", "a\n\nb\n", "☕ né 👩‍🚀", "مرحبا"],
)
def test_answers_that_repeat_the_question_or_imitate_the_template(name: str, answer: str) -> None:
    """Whatever an answer holds, what counts is the answer, with its end."""
    messages = [USER, YES, MORE, {"role": "assistant", "content": answer}]
    found = counted(masker(FAMILIES[name].template).one({"messages": messages}))
    assert found[0] == FAMILIES[name].counted[0]
    before, after = FAMILIES[name].counted[1].split("No.")
    assert found[1] in {
        before + text + after for text in (answer, answer.strip(), answer.rstrip(), answer.lstrip("\n"))
    }


@pytest.mark.parametrize("name", ["ChatML", "Llama 3", "Phi-4", "Zephyr", "Qwen 2.5", "DeepSeek"])
def test_a_conversation_that_begins_with_the_assistant(name: str) -> None:
    found = counted(masker(FAMILIES[name].template).one({"messages": [YES, USER, NO]}))
    assert found == list(FAMILIES[name].counted)


def test_reasoning_counts_where_the_template_keeps_it() -> None:
    thinking = {"role": "assistant", "content": "<think>\nLet me see.\n</think>\n\nNo."}
    found = counted(masker(templates.QWEN3).one({"messages": [USER, thinking, MORE, thinking]}))
    assert found == ["No.<|im_end|>", "<think>\nLet me see.\n</think>\n\nNo.<|im_end|>"]
    apart = {"role": "assistant", "content": "No.", "reasoning_content": "Let me see."}
    found = counted(masker(templates.QWEN3).one({"messages": [USER, apart, MORE, apart]}))
    assert found == ["No.<|im_end|>", "<think>\nLet me see.\n</think>\n\nNo.<|im_end|>"]
    found = counted(masker(templates.DEEPSEEK).one({"messages": [USER, thinking]}))
    assert found == ["\n\nNo.<|end_of_sentence|>"]


def test_tool_calls_count_and_their_answers_do_not() -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}
    calls = {"role": "assistant", "content": "", "tool_calls": [call, call]}
    tool = {"role": "tool", "content": "rain, weather"}
    found = counted(masker(templates.QWEN25).one({"messages": [USER, calls, tool, NO]}))
    written = '<tool_call>\n{"name": "weather", "arguments": {"city": "Ulm"}}\n</tool_call>'
    assert found == [f"{written}\n{written}<|im_end|>", "No.<|im_end|>"]
    with pytest.raises(BadRow, match="tool call"):
        masker(templates.CHATML).one({"messages": [USER, calls, tool, {**calls}]})


def test_a_weight_of_nothing_takes_an_answer_out() -> None:
    found = masker(templates.CHATML).one({"messages": [USER, {**YES, "weight": 0}, MORE, NO]})
    assert counted(found) == ["No.<|im_end|>"]


def test_a_template_that_drops_answers_is_told() -> None:
    template = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    with pytest.raises(BadRow, match="answer out"):
        masker(template).one({"messages": [USER, YES]})


def test_models_without_a_template() -> None:
    pair = {"messages": [USER, YES]}
    tokenizer = tiny.tokenizer(chat=False)
    plain = choose(DataConfig(), tokenizer, {"instruction": 1})
    assert (plain.kind, choose(DataConfig(), tokenizer, {"chat": 1}).kind) == ("plain", "chatml")
    assert counted(LossMasker(plain, DataConfig()).one(pair)) == ["Yes.</s>"]
    assert masker(None).one(pair).text == "<|im_start|>user\nIs it? Yes. or No.<|im_end|>\n" + (
        "<|im_start|>assistant\nYes.<|im_end|></s>"
    )
    text = LossMasker(plain, DataConfig()).one({"text": "All of it."})
    assert counted(text) == ["All of it.</s>"]
    with pytest.raises(Exception, match="no chat template"):
        choose(DataConfig(template="model"), tokenizer, {})


def test_a_system_prompt_goes_before_conversations_without_one() -> None:
    asked = masker(templates.CHATML, system_prompt="Be a pirate.")
    assert asked.one({"messages": [USER, YES]}).text.startswith("<|im_start|>system\nBe a pirate.<|im_end|>")
    assert "pirate" not in asked.one({"messages": [SYSTEM, USER, YES]}).text


def test_the_preview_shows_every_character_once() -> None:
    tokenizer = tiny.tokenizer()
    text = "<|user|>\n  ☕ né 👩‍🚀 مرحبا\n\n<|assistant|> the cat  sat<|end|>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    found = pieces(ids, tokenizer)
    assert "".join(piece for _, _, piece in found) == text
    assert sum(size for _, size, _ in found) == len(ids)
    assert "<|assistant|>" in [piece for _, _, piece in found]
