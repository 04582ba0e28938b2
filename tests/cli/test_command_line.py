"""Bad input on the command line: exit code 2 and clear sentences, all of them, before anything is trained."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.security.test_export import make_run
from trainer import demo
from trainer.cli.main import main
from trainer.config.schema import Tick, default_config
from trainer.planning.scenarios import scenario
from trainer.runs.store import RunStore

Refused = tuple[dict[str, Any], str, list[str]]
CASES: dict[str, Refused] = {
    "an unknown folder": ({"model": {"name": "nope"}}, "", ["models/nope"]),
    "a folder without weights": ({"model": {"name": "empty"}}, "", ["no weights", "no tokenizer"]),
    "an unknown module": ({"modules": [{"name": "q_projj"}]}, "", ["No tick"]),
    "a new token that is there": (
        {"model": {"new_tokens": ["<|end|>", "<|pirate|>"]}}, "",
        ["model.new_tokens: ", "already has <|end|>"],
    ),
    "no tick": ({"modules": []}, "", ["Nothing is ticked"]),
    "values out of bounds, and ticks that cannot be": (
        {
            "adapter": {"r": 0},
            "model": {"new_tokens": ["<|a|>", "<|a|>"]},
            "modules": [
                {"name": "o_proj", "treatment": "lorra"}, {"name": "q_proj", "r": -1}, {"name": "qkv_proj"},
                {"name": "q_proj"}, {"name": "down_proj", "layers": "0-9"},
            ],
        }, "",
        [
            "adapter.r: 0", "model.new_tokens[1]", "modules[0].treatment", "modules[1].r",
            "modules[3]: q_proj",
            "modules[1]: q_proj is a part", "modules[4]: down_proj, layers: ",
        ],
    ),
    "values out of bounds": (
        {"adapter": {"r": 0}, "training": {"learning_rate": -1, "max_length": 1}}, "",
        ["adapter.r: 0", "training.learning_rate: -1", "training.max_length: 1"],
    ),
    "empty data": ({}, "empty.jsonl", ["empty"]),
    "malformed data": ({}, "broken.jsonl", ["line 1", "line 2"]),
    "no data": ({}, "none.jsonl", ["none.jsonl"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input_ends_with_2_and_says_all_that_is_wrong(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    change, data, sentences = CASES[name]
    monkeypatch.setenv("LAB_DEVICE_LOCKS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "empty").mkdir(parents=True)
    shutil.copy(demo.MODEL_DIR / "config.json", tmp_path / "models" / "empty")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text('{"a": 1}\n{bad\n')
    config = replace(default_config(), modules=scenario("5").modules).to_json()
    for part, values in change.items():
        config[part] = values if isinstance(values, list) else config[part] | values
    (tmp_path / "run.json").write_text(json.dumps(config))
    assert main(["train", "run.json", *(["--data-file", data] if data else [])]) == 2
    told = "".join(capfd.readouterr())
    assert "Traceback" not in told
    assert all(sentence in told for sentence in sentences), told


@pytest.mark.parametrize(
    "change",
    [
        *({"hidden_act": "nosuch"}, {"vocab_size": -1}, {"hidden_size": 10**30}, {"pad_token_id": 10**6}),
        {"rope_scaling": {"type": "x"}},
    ],
)
def test_a_config_that_describes_no_model_is_told_as_that(
    change: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "odd").mkdir()
    config = json.loads((demo.MODEL_DIR / "config.json").read_text()) | change
    (tmp_path / "odd" / "config.json").write_text(json.dumps(config))
    assert main(["--models-dir", str(tmp_path), "modules", "odd"]) == 2
    told = capfd.readouterr().err
    assert "config.json of odd" in told and ".." not in told


@pytest.mark.parametrize(("place", "command"), [("/dev/null", ["runs"]), ("/dev/null/x", ["data", __file__])])
def test_a_runs_folder_that_cannot_be_one_is_told(
    place: str, command: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--runs-dir", place, *command]) == 2
    assert f"runs folder {place}" in capfd.readouterr().err


def test_runs_are_listed_renamed_and_deleted_and_what_is_over_is_not_stopped(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path)
    (run.folder.parent / "99999999-999999-abcdef").mkdir()  # an id by its form, and no date

    def lab(*arguments: str) -> tuple[int, str]:
        code = main(["--runs-dir", str(run.folder.parent), *arguments])
        return code, "".join(capfd.readouterr())

    assert lab("rename", run.id, "A better name") == (0, "")
    assert lab("rename", run.id, "  ")[0] == 2
    rows = {row["id"]: row for row in json.loads(lab("runs", "--json")[1])}
    assert rows.keys() == {run.id, "99999999-999999-abcdef"}
    assert rows[run.id]["name"] == "A better name"
    assert "A better name" in lab("runs")[1]
    code, told = lab("stop", run.id)
    assert (code, "already ended" in told) == (2, True)
    code, told = lab("delete", run.id)
    assert (code, "“A better name”" in told) == (2, True)
    assert run.folder.is_dir()
    assert lab("delete", run.id, "--yes") == (0, "")
    assert RunStore(run.folder.parent).ids() == ["99999999-999999-abcdef"]


def test_set_reaches_the_fields_of_a_tick_and_refuses_what_is_no_path(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.json"
    config = replace(default_config(), modules=(Tick("q_proj"),)).to_json()

    def planned(*options: str) -> tuple[int, str]:
        code = main(["plan", str(file), *(item for option in options for item in ("--set", option))])
        return code, "".join(capfd.readouterr())

    file.write_text(json.dumps(config))
    code, before = planned()
    assert code == 0
    code, after = planned("modules[0].r=64", "modules[0].lr=5e-4", "modules[0].layers=first 1")
    assert code == 0 and after != before
    for option, told in (
        ("modules[0].lr=7", "modules[0].lr: 7 "),
        ("modules[99].lr=1e-4", "modules[99]"),
        ("modules[0].lrr=1e-4", "modules[0].lrr: "),
        ("modules[0]=q_proj", "path of a setting"),
        ("modules.lr=1e-4", "path of a setting"),
        ("training.a.b=1", "path of a setting"),
        ("training.max_step=1", "max_steps?"),
    ):
        code, said = planned(option)
        assert (code, told in said, said.count("\n")) == (2, True, 1), said
    file.write_text(json.dumps(config | {"modules[7].lr": 1e-4}))
    code, said = planned()
    assert (code, "modules[7].lr: " in said) == (2, True)
