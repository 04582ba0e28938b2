"""What counts for the loss: on the template of every well-known family, in every kind of conversation."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import templates, tiny
from tests.support.templates import FAMILIES
from trainer.config.schema import DataConfig
from trainer.data.masking.chat_templates import choose
from trainer.data.masking.encoding import Encoder
from trainer.data.masking.loss_mask import LossMasker, Rendered
from trainer.data.preview import pieces
from trainer.data.rows.format_detection import FormatDetector
from trainer.data.rows.messages import BadRow

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


THINKING = {"role": "assistant", "content": "No.", "reasoning_content": "Let me see."}
DROPPING = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|eot|>{% endfor %}"
EMPTY_BLOCK = (  # earlier reasoning becomes an empty block
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}<think>"
    "{{ m.reasoning_content if loop.last else '' }}</think>{% endif %}{{ m.content }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>{% endif %}"
)


@pytest.mark.parametrize("template", [templates.QWEN3, templates.DEEPSEEK, DROPPING, EMPTY_BLOCK])
def test_reasoning_that_a_template_drops_is_counted_or_kept(template: str) -> None:
    messages = {"messages": [USER, THINKING, MORE, THINKING]}
    as_is = masker(template).one(messages)
    kept = masker(template, reasoning="keep").one(messages)
    assert as_is.dropped.count("reasoning") == 2 - as_is.text.count("Let me see.") > 0
    assert not kept.dropped
    assert kept.kinds.count(("reasoning", True)) == 2
    for answer in counted(kept):
        assert answer.count("Let me see.") == answer.count("No.") == answer.count("</think>") == 1
        assert answer.index("Let me see.") < answer.index("</think>") < answer.index("No.")
    assert kept.text.count("<think>") == 2


def test_what_a_template_leaves_out_is_listed_by_kind() -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}
    calls = {"role": "assistant", "content": "Let me look.", "tool_calls": [call]}
    tool = {"type": "function", "function": {"name": "forecast", "parameters": {}}}
    silent = (
        "{% for m in messages if m.role != 'tool' %}<|{{ m.role }}|>"
        "{% if m.tool_calls %}{{ m.tool_calls[0].function.name }}{% else %}{{ m.content }}{% endif %}<|eot|>"
        "{% endfor %}"
    )
    found = masker(silent).one({"messages": [USER, calls, {"role": "tool", "content": "rain"}, NO], "tools": [tool]})
    assert sorted(found.dropped) == [
        "text beside tool calls", "tool call arguments", "tool descriptions", "tool result",
    ]  # fmt: skip


ENDS = {  # what ends an answer, and whether the model can learn it
    "special": ("<|eot|>", True),
    "spaces": ("\n\n", False),
    "nothing": ("", False),
    "text": (" END.", False),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_run_never_teaches_a_model_not_to_stop(name: str) -> None:
    end, special = ENDS[name]
    template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}" + end + "{% endfor %}"
    template += "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    auto = masker(template)
    found = counted(auto.one({"messages": [USER, YES, MORE, NO]}))
    written = end.strip("\n")
    assert found == [f"Yes.{written}", f"No.{written}" + ("" if special else "</s>")]
    assert auto.end is not None
    assert auto.end["special"] == special
    as_is = counted(masker(template, answer_end="template").one({"messages": [USER, YES, MORE, NO]}))
    assert as_is == [f"Yes.{written}", f"No.{written}"]


OBJECTS = "{{ c.function.name }} {{ c.function.arguments | tojson }}"
TEXTS = "{{ c.function.name + ' ' + c.function.arguments }}"


@pytest.mark.parametrize("arguments", [OBJECTS, TEXTS])
@pytest.mark.parametrize("parts", [False, True])
def test_templates_get_arguments_and_content_in_the_form_they_take(arguments: str, parts: bool) -> None:
    content = "{% for p in m.content %}{{ p.text }}{% endfor %}" if parts else "{{ m.content }}"
    template = (
        "{% for m in messages %}<|{{ m.role }}|>"
        + content
        + "{% for c in m.tool_calls or [] %}"
        + arguments
        + "<|eom|>{% else %}<|eot|>{% endfor %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    call = {"type": "function", "id": "c1", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}
    calls = {"role": "assistant", "content": "", "tool_calls": [call]}
    tool = {"role": "tool", "tool_call_id": "c1", "content": "rain"}
    found = counted(masker(template).one({"messages": [USER, calls, tool, NO]}))
    assert found == ['weather {"city": "Ulm"}<|eom|>', "No.<|eot|>"]


def test_a_text_has_one_bos_and_one_eos() -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.add_bos_token = True
    plain = choose(DataConfig(template="plain"), tokenizer, {})
    for text in ("<s>the cat</s>", "the cat", "the cat</s>\n", "<s>the cat </s></s>"):
        found = LossMasker(plain, DataConfig()).one({"text": text})
        ((ids, ranges),) = Encoder(tokenizer, plain)([found], [True])
        assert ids.count(tokenizer.eos_token_id) == 1
        assert ids[-1] == tokenizer.eos_token_id
        assert ids.count(tokenizer.bos_token_id) <= 1
        assert ranges == [(1, len(ids))]


def test_nothing_is_put_between_a_prompt_and_its_completion() -> None:
    rows = [{"prompt": "2 + 2 =", "completion": " 4"}, {"instruction": "Add.", "output": "4"}]
    detector = FormatDetector(DataConfig())
    plain = LossMasker(choose(DataConfig(template="plain"), tiny.tokenizer(), {}), DataConfig())
    texts = [plain.one(example).text for row in rows for example in detector.examples(row)]
    assert texts == ["2 + 2 = 4</s>", "Add.\n4</s>"]
