"""A mask is tested against what a server does: on templates that agree with serving, and on ones that do not."""

from __future__ import annotations

from typing import Any

from tests.support import templates, tiny
from trainer.config.schema import DataConfig
from trainer.data.masking.chat_templates import choose
from trainer.data.masking.mask_test import DROPS, FIRST, HEADER, KEPT, mask_test

SYSTEM, USER = {"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "Is it?"}
YES, NO = {"role": "assistant", "content": "Yes."}, {"role": "assistant", "content": "No."}
THOUGHT = {"role": "assistant", "content": "No.", "reasoning_content": "Let me see."}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "rain", "tool_call_id": "c1"}

# as Qwen 3 does: reasoning stays until the next question
THINKING_TOOLS = """\
{%- set ns = namespace(last=0) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
{{- '<|im_start|>' + m.role + '\n' -}}
{%- if m.reasoning_content and loop.index0 > ns.last -%}{{- '<think>\n' + m.reasoning_content + '\n</think>\n\n' -}}
{%- endif -%}
{{- m.content -}}
{%- for call in m.tool_calls or [] -%}
{{- '<tool_call>{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) -}}
{{- '}</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"""


def compared(template: str | None, *messages: Any, max_length: int = 2048, **settings: Any) -> dict[str, Any]:
    data, tokenizer = DataConfig(**settings), templates.tokenizer(template)
    return mask_test({"messages": list(messages)}, choose(data, tokenizer, {"chat": 1}), data, max_length)


def test_every_family_is_trained_as_it_is_served_except_where_reasoning_is_opened() -> None:
    for name, family in templates.FAMILIES.items():
        for answer, counted in zip(
            compared(family.template, USER, YES, USER, NO)["answers"], family.counted, strict=True
        ):
            assert answer["counted"] == counted, name
            assert answer["same"] == (name != "DeepSeek"), name
            assert bool(answer["end"]) == (name != "GLM" or answer["message"] == 4), name
            assert answer["missing"] == []
            assert not answer["cut"]


def test_a_prompt_that_opens_reasoning_is_shown_with_the_part_that_differs() -> None:
    (answer,) = compared(templates.DEEPSEEK, USER, NO)["answers"]
    assert (answer["why"], answer["expected"]) == (HEADER, False)
    assert answer["difference"] == {
        "before": "<s><|User|>Is it?<|Assistant|>", "serving": "<think>\n", "training": "", "after": "",
    }  # fmt: skip
    (kept,) = compared(templates.DEEPSEEK, USER, THOUGHT, reasoning="keep")["answers"]
    assert kept["same"]
    assert (kept["missing"], answer["end"]) == ([], "<|end_of_sentence|>")
    (dropped,) = compared(templates.DEEPSEEK, USER, THOUGHT)["answers"]
    assert dropped["missing"] == ["reasoning"]


def test_reasoning_that_only_one_side_has_is_named() -> None:
    thinking_call = {**CALLS, "reasoning_content": "I need the weather."}
    call, answer, last = compared(THINKING_TOOLS, USER, thinking_call, RESULT, NO, USER, YES)["answers"]
    assert (call["kind"], call["same"], call["missing"]) == ("tool call", True, ["reasoning"])
    assert (answer["same"], answer["why"], answer["expected"]) == (False, DROPS, True)
    assert answer["difference"]["serving"] == "<think>\nI need the weather.\n</think>\n\n"
    assert answer["difference"]["training"] == ""
    assert last["same"]
    first, second = compared(templates.QWEN3, USER, THOUGHT, USER, YES, reasoning="keep")["answers"]
    assert first["same"]
    assert (second["same"], second["why"], second["expected"]) == (False, KEPT, True)


def test_what_counts_and_what_does_not_is_counted() -> None:
    found = compared(templates.CHATML, YES, USER, {**NO, "weight": 0}, USER, NO)
    assert [(answer["message"], answer["same"], answer["why"]) for answer in found["answers"]] == [
        (1, None, FIRST),
        (5, True, ""),
    ]
    assert (found["more"], found["uncounted"]) == (0, 1)
    last = compared(templates.CHATML, USER, YES, USER, NO, loss_on="last")
    assert ([answer["message"] for answer in last["answers"]], last["uncounted"]) == ([4], 1)
    assert len(compared(templates.CHATML, USER, YES, USER, NO, loss_on="all")["answers"]) == 2
    many = compared(templates.CHATML, *[USER, YES] * 45)
    assert (len(many["answers"]), many["more"]) == (40, 5)
    joined = compared(templates.MISTRAL, USER, USER, YES)["answers"]
    assert [(answer["message"], answer["same"]) for answer in joined] == [(2, True)]


def test_ends_are_named_and_one_beyond_the_maximum_length_is_none() -> None:
    first, last = compared(templates.CHATML, SYSTEM, USER, YES, USER, NO, max_length=60)["answers"]
    assert (first["end"], first["is_eos"], first["cut"]) == ("<|im_end|>", False, False)
    assert last["cut"]
    (zephyr,) = compared(templates.ZEPHYR, USER, YES)["answers"]
    assert (zephyr["end"], zephyr["is_eos"]) == ("</s>", True)
    (bare,) = compared(templates.GLM, USER, YES, answer_end="template")["answers"]
    assert bare["end"] == ""


def test_plain_prompts_are_compared_token_by_token() -> None:
    tokenizer = tiny.tokenizer(chat=False)
    data = DataConfig(template="plain")
    template = choose(data, tokenizer, {"instruction": 1})
    good = {"messages": [USER, YES]}
    (answer,) = mask_test(good, template, data, 512)["answers"]
    assert (answer["same"], answer["joins"], answer["end"], answer["is_eos"]) == (True, "", "</s>", True)
    spaced = {
        "messages": [{"role": "user", "content": "where: "}, {"role": "assistant", "content": "the hill"}],
        "verbatim": True,
    }
    (answer,) = mask_test(spaced, template, data, 512)["answers"]
    assert (answer["same"], answer["joins"]) == (True, " the")
    assert mask_test({"text": "All of it."}, template, data, 512)["whole"]
