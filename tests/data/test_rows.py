"""What is read in a row: its shape, who says what, what counts, and what of it no example holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny
from tests.support.data_files import CHAT, PAIR, keep, lines, read, texts
from trainer.common.errors import UserError
from trainer.config.schema import DataConfig, RunConfig
from trainer.data.preparation import prepare
from trainer.data.quality_report import report

ASKED = [("user", "Where?"), ("assistant", "Here.")]
ANSWER = CHAT["messages"][1]
SHAPES = [
    (PAIR, "instruction", ASKED),
    ({"Instruction": "A", "Input": "B", "Output": "C"}, "instruction", [("user", "A\n\nB"), ("assistant", "C")]),
    ({"instruction": "Where?", "context": "", "response": "Here."}, "instruction", ASKED),
    ({"question": "Where?", "answer": "Here.", "id": 7}, "question_answer", ASKED),
    ({"prompt": "Where?", "completion": "Here."}, "prompt_completion", ASKED),
    ({"prompt": "Where?", "completion": "Here.", "system": "Be."}, "prompt_completion", [("system", "Be."), *ASKED]),
    (CHAT, "chat", ASKED),
    ({"prompt": CHAT["messages"][:1], "completion": CHAT["messages"][1:]}, "chat", ASKED),
    ({"conversations": [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "Here."}]}, "chat", ASKED),
    ({"messages": json.dumps(CHAT["messages"])}, "chat", ASKED),
    ({"chat": [{"role": "user", "content": [{"type": "text", "text": "Where?"}]}, ANSWER]}, "chat", ASKED),
]  # fmt: skip


@pytest.mark.parametrize(("row", "shape", "expected"), SHAPES)
def test_shapes_are_recognized_by_their_columns(row: Any, shape: str, expected: Any, tmp_path: Path) -> None:
    found = read(tmp_path, row)
    assert list(found.account["shapes"]) == [shape]
    assert texts(found) == [expected]
    assert next(iter(row)) in found.account["why"]


def test_columns_picked_by_hand(tmp_path: Path) -> None:
    row = {"frage": "Where?", "antwort": "Here.", "text": "all", "keys": "k"}
    assert [example["text"] for example in read(tmp_path, row).examples()] == ["all"]
    found = read(tmp_path, row, prompt_column="frage", completion_column="antwort")
    assert texts(found) == [ASKED]
    assert found.account["why"].startswith("Picked as")
    assert [example["text"] for example in read(tmp_path, row, text_column="keys").examples()] == ["k"]
    (bad,) = read(tmp_path, row, text_column="missing").bad
    assert bad == ("a.jsonl", 1, "missing is missing")


def say(*names: str, **more: Any) -> dict[str, Any]:
    """A conversation in which these speak, one after the other."""
    return {"messages": [{"role": name, "content": f"{name} says"} for name in names], **more}


def roles(checked: Any) -> list[list[str]]:
    return [[role for role, _ in example] for example in texts(checked)]


def counted(checked: Any) -> list[list[str]]:
    """The answers of each example that are trained on."""
    return [
        [item["content"] for item in example["messages"] if item["role"] == "assistant" and item.get("weight") != 0]
        for example in checked.examples()
    ]


ROLE_NAMES = {
    "function_response": "tool",
    "tool_result": "tool",
    "Tool-Result": "tool",
    "observation": "tool",
    "narrator": "user",
    "context": "user",
    "system_prompt": "system",
    "ChatGPT": "assistant",
}


@pytest.mark.parametrize(("name", "role"), ROLE_NAMES.items())
def test_common_names_have_their_roles(name: str, role: str, tmp_path: Path) -> None:
    assert roles(read(tmp_path, say("human", name, "gpt"))) == [["user", role, "assistant"]]
    assert roles(read(tmp_path, say("narrator", "human", "gpt"))) == [["system", "user", "assistant"]]


@pytest.mark.parametrize("speakers", [("user", "pirate"), ("sailor", "assistant"), ("sailor", "pirate")])
def test_a_name_that_nobody_knows_is_asked_about(speakers: tuple[str, ...], tmp_path: Path) -> None:
    row = say(*speakers)
    data = keep(tmp_path, "a.jsonl", lines(*[row] * 3, PAIR))
    told = report(RunConfig(data=data), tiny.tokenizer(), tmp_path)
    unknown = [name for name in speakers if name not in ("user", "assistant")]
    assert told["unknown_roles"] == dict.fromkeys(unknown, 3)
    assert (told["undecided"], told["good"], told["bad"]) == (3, 1, [])
    (issue,) = told["issues"]
    assert issue["field"] == "data.roles"
    assert all(f"{name} (3 messages)" in issue["problem"] for name in unknown)
    with pytest.raises(UserError, match="says who these are"):
        prepare(DataConfig(source="file", path="a.jsonl", bad_rows="skip"), tiny.tokenizer(), 64, 0, tmp_path)
    others = {"sailor": "user", "pirate": "assistant"}
    found = read(tmp_path, row, roles=", ".join(f"{name}={others[name]}" for name in unknown))
    assert roles(found) == [["user", "assistant"]]
    assert not found.decisions
    assert f"{unknown[0]} is the {others[unknown[0]]}" in found.account["why"]


def test_roles_are_assigned_and_names_ignored(tmp_path: Path) -> None:
    row = say("Mr. Smith, MD", "stage", "pirate", "user")
    found = read(tmp_path, row, roles="Mr. Smith, MD = user,stage=ignore, Pirate=assistant")
    assert roles(found) == [["user", "assistant", "user"]]
    assert roles(read(tmp_path, say("human", "gpt"), roles="human=assistant, gpt=user")) == [["assistant", "user"]]
    found = read(tmp_path, say("sailor", "pirate"), assistant_role="pirate")
    assert roles(found) == [["user", "assistant"]]
    assert "sailor is the user" in found.account["why"]


@pytest.mark.parametrize("prompt", ["prompt", "instruction"])
def test_a_closer_look_reads_the_same_as_a_glance(prompt: str, tmp_path: Path) -> None:
    first, second = read(tmp_path, {prompt: "W?", "output": "a"}, {prompt: " W?", "output": "a"}).examples()
    second["messages"][0]["content"] = "W?"
    assert first == second


MARKS = {
    "weight": (0, 1), "train": (False, True), "training": (False, True), "trainable": ("false", "true"),
    "loss": (False, True), "masked": (True, False), "mask": (1, 0),
}  # fmt: skip


@pytest.mark.parametrize("mark", MARKS)
def test_marks_of_messages_are_obeyed(mark: str, tmp_path: Path) -> None:
    off, on = MARKS[mark]

    def row(first: Any, second: Any) -> dict[str, Any]:
        said = [("human", None), ("gpt", first), ("human", off), ("gpt", second)]
        return {"conversations": [{"from": who, "value": f"{who} {value}", mark: value} for who, value in said]}

    found = read(tmp_path, row(off, on), row(None, off), row(on, None), row(off, off))
    assert counted(found) == [[f"gpt {on}"], ["gpt None"], [f"gpt {on}", "gpt None"]]
    assert all(set(item) <= {"role", "content", "weight"} for row in found.examples() for item in row["messages"])
    (bad,) = found.bad
    assert (bad.line, bad.reason) == (4, "every answer in it is marked as not to be trained on")


GOOD = {"role": "assistant", "content": "good"}
WORSE = {"role": "assistant", "content": "worse"}
ASKS = say("user")["messages"]
EARLIER = say("user", "assistant", "user")["messages"]
PREFERENCES: dict[str, dict[str, Any]] = {
    "texts": {"prompt": "Where?", "chosen": "good", "rejected": "worse"},
    "instructions": {"instruction": "Where?", "input": "Here", "chosen": "good", "rejected": "worse"},
    "with history": {"instruction": "W?", "history": [["a", "earlier"]], "chosen": "good", "rejected": "worse"},
    "messages": {"prompt": EARLIER, "chosen": [GOOD], "rejected": [WORSE]},
    "whole conversations": {"chosen": [*EARLIER, GOOD], "rejected": [*EARLIER, WORSE]},
    "ultrafeedback": {"prompt": "x", "chosen": [*ASKS, GOOD], "rejected": [*ASKS, WORSE], "messages": [*ASKS, GOOD]},
    "as JSON": {"chosen": json.dumps([*ASKS, GOOD]), "rejected": json.dumps([*ASKS, WORSE])},
    "llama-factory": {
        "conversations": [
            {"from": "human", "value": "a"},
            {"from": "gpt", "value": "b"},
            {"from": "human", "value": "c"},
        ],
        "chosen": {"from": "gpt", "value": "good"},
        "rejected": {"from": "gpt", "value": "worse"},
    },
    "transcripts": {"chosen": "\n\nHuman: a\n\nAssistant: good", "rejected": "\n\nHuman: a\n\nAssistant: worse"},
    "rated": {"prompt": "Where?", "completion": "good", "label": True},
    "rated messages": {"messages": [*EARLIER, GOOD], "label": True},
}


@pytest.mark.parametrize("kind", PREFERENCES)
def test_preference_rows_are_recognized_and_train_on_the_good_side_if_asked(kind: str, tmp_path: Path) -> None:
    row = PREFERENCES[kind]
    data = keep(tmp_path, "a.jsonl", lines(*[row] * 4))
    told = report(RunConfig(data=data), tiny.tokenizer(), tmp_path)
    (issue,) = told["issues"]
    assert issue["field"] == "data.preference_rows"
    assert "4 rows" in issue["problem"] and "preference_rows to chosen" in issue["fix"]
    assert told["tokens"] is None
    found = read(tmp_path, row, preference_rows="chosen")
    assert counted(found) == [["good"]]
    assert not found.decisions and not found.bad


def test_bad_answers_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}?", "completion": str(n), "label": n % 3 == 0} for n in range(9)]
    data = DataConfig(source="file", path="a.jsonl", preference_rows="chosen", eval_fraction=0)
    keep(tmp_path, "a.jsonl", lines(*rows))
    told = report(RunConfig(data=data), tiny.tokenizer(), tmp_path)
    assert (told["rows"], told["good"], told["left_out"], told["bad"]) == (9, 3, {"label is false": 6}, [])
    assert len(prepare(data, tiny.tokenizer(), 64, 0, tmp_path).train) == 3
    all_bad = read(tmp_path, rows[1], preference_rows="chosen")
    assert "none is left" in all_bad.decisions[0].problem
    assert counted(read(tmp_path, rows[1], prompt_column="prompt", completion_column="completion")) == [["1"]]
    assert counted(read(tmp_path, {"question": "a?", "answer": "b", "label": "spam"})) == [["b"]]


@pytest.mark.parametrize("written", [list, json.dumps, str])
def test_history_becomes_turns(written: Any, tmp_path: Path) -> None:
    row = {"instruction": "And?", "output": "So.", "history": written([["What's up?", "Blue."], ["Size?", "Small."]])}
    assert counted(read(tmp_path, row)) == [["Blue.", "Small.", "So."]]
    assert roles(read(tmp_path, row)) == [["user", "assistant"] * 3]
    assert counted(read(tmp_path, {**row, "history": written([])})) == [["So."]]


def test_several_answers_are_several_examples(tmp_path: Path) -> None:
    squad = {"question": "Where?", "answers": {"text": ["Here", "There", "Here"], "answer_start": [1, 2, 1]}}
    found = read(tmp_path, squad, {"prompt": "W?", "completions": ["a", "b"]}, {"question": "W?", "answers": ["c"]})
    assert counted(found) == [["Here"], ["There"], ["a"], ["b"], ["c"]]
    data = DataConfig(source="file", path="a.jsonl")
    told = report(RunConfig(data=data), tiny.tokenizer(), tmp_path)
    assert (told["rows"], told["good"]) == (3, 3)
    assert any("2 rows have several answers" in item["problem"] for item in told["warnings"])


def test_what_no_example_holds_is_listed(tmp_path: Path) -> None:
    asks, answers = CHAT["messages"]
    rows = [
        {**PAIR, "source": "web", "empty": "", "none": None, "list": []},
        {**PAIR, "source": "book", "id": 7},
        {
            "messages": [{**asks, "time": 1, "tags": []}, {**answers, "thinking": "T", "reasoning": "R"}],
            "prompt": "W?",
        },
        say("user", "assistant", text="more"),
    ]
    unused = read(tmp_path, *rows).account["unused"]
    assert unused["columns"] == {"source": 2, "id": 1, "prompt": 1, "text": 1}
    assert unused["fields"] == {"time": 1, "thinking": 1}


def test_images_are_refused_or_left_out_and_counted(tmp_path: Path) -> None:
    part = {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "W?"}],
    }
    rows = [
        {"messages": [part, GOOD]},
        {
            "image": "a.png",
            "conversations": [{"from": "human", "value": "<image>\nW?"}, {"from": "gpt", "value": "good"}],
        },
        {"question": "W?", "answer": "good", "audio": {"bytes": None, "path": "a.wav"}},
    ]
    refused = read(tmp_path, *rows)
    assert [item.reason.split(";")[0] for item in refused.bad] == ["it holds an image"] * 2 + ["it holds an audio"]
    found = read(tmp_path, *rows, media="drop")
    assert texts(found) == [[("user", "W?"), ("assistant", "good")]] * 3
    assert found.account["unused"]["media"] == {"image": 2, "audio": 1}


CALL = {"name": "weather", "arguments": {"city": "A", "unit": None}}
SPELLINGS: list[list[dict[str, Any]]] = [
    [
        {"role": "assistant", "content": "Look.", "thinking": "T",
         "function_call": {"name": "weather", "arguments": json.dumps(CALL["arguments"])}},
        {"role": "function", "name": "weather", "content": "9"},
    ],
    [
        {"role": "assistant", "content": "Look.", "reasoning": "T",
         "tool_calls": [{"type": "function", "function": CALL}]},
        {"role": "tool", "name": "weather", "content": "9"},
    ],
    [
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": "T"}]},
            {"type": "output_text", "text": "Look."},
            {"type": "tool_use", "name": "weather", "input": CALL["arguments"]}]},
        {"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "text": "9"}]}]},
    ],
    [
        {"from": "gpt", "value": "Look.", "thought": "T"},
        {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "observation", "value": "9"},
    ],
    [
        {"from": "gpt", "value": "Look.", "reasoning_content": "T"},
        {"from": "tool_call", "value": str([CALL])},
        {"from": "tool_response", "value": "9"},
    ],
]  # fmt: skip


@pytest.mark.parametrize("spelling", range(len(SPELLINGS)))
def test_tool_calls_and_reasoning_in_every_spelling(spelling: int, tmp_path: Path) -> None:
    row = {"messages": [*say("user")["messages"], *SPELLINGS[spelling], GOOD], "tools": [{"name": "weather"}]}
    found = read(tmp_path, row)
    (example,) = found.examples()
    _, calls, result, _ = example["messages"]
    assert calls == {
        "role": "assistant", "content": "Look.", "reasoning_content": "T",
        "tool_calls": [{"type": "function", "function": CALL}],
    }  # fmt: skip
    assert (result["role"], result["content"]) == ("tool", "9")
    assert not any(found.account["unused"].values())
