"""No text of a file, a model or data reaches the terminal with control characters, whatever the command."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.runs import damage
from trainer import demo
from trainer.cli.main import main
from trainer.common.plain_text import json_text, one_line, visible
from trainer.config.schema import Tick, default_config

EVIL = damage.HOSTILE
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
RUN, EXPERIMENT = "20260101-000000-aaaaaa", "exp-20260101-000000-aaaaaa"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which every text is hostile: titles, messages, names of modules, rows of data, names of files."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / RUN
    damage.finished_run(run, "fine")
    (run / "title").write_bytes(EVIL.encode(errors="surrogatepass"))
    config = json.loads((run / "config.json").read_text())
    evil = EVIL.replace("\ud800", "")
    config |= {"modules": [{"name": f"q{evil}"}]}
    config["model"] |= {"name": evil, "revision": evil}
    (run / "config.json").write_text(json.dumps(config))
    with (run / "events.jsonl").open("a") as file:
        file.write(json.dumps({"type": "state", "state": "failed", "message": EVIL, "cause": EVIL}) + "\n")
    damage.finished_run(tmp_path / "runs" / "20260101-000001-bbbbbb", evil, seed=1)
    experiment = damage.experiment_of([RUN, "20260101-000001-bbbbbb"], EXPERIMENT) | {"name": EVIL, "question": EVIL}
    experiment["scenarios"][0]["title"] = EVIL
    (tmp_path / "runs" / "experiments").mkdir()
    (tmp_path / "runs" / "experiments" / f"{EXPERIMENT}.json").write_text(json.dumps(experiment))
    (tmp_path / "runs" / "experiments" / "exp-20260101-000001-bbbbbb.json").write_text(f'{{"{evil}": 1}}')
    (tmp_path / "models" / "evil").mkdir(parents=True)
    model = json.loads((demo.MODEL_DIR / "config.json").read_text())
    (tmp_path / "models" / "evil" / "config.json").write_text(json.dumps(model | {"model_type": evil}))
    ticks = replace(default_config(), modules=(Tick("q_proj"), Tick(f"k_proj{evil}"))).to_json()
    (tmp_path / "plan.json").write_text(json.dumps(ticks))
    (tmp_path / "bad.json").write_text(json.dumps(ticks | {evil: evil, "title": EVIL, "data": {evil: 1}}))
    rows = [{"instruction": evil, "response": f"an answer {evil}", evil: "x"} for _ in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "broken.jsonl").write_text(json.dumps({evil: evil}) + "\n{\x1b[31m\n")
    return tmp_path


COMMANDS: tuple[tuple[str, ...], ...] = (
    ("runs",), ("experiments",), ("compare", RUN, "20260101-000001-bbbbbb"), ("compare", EXPERIMENT),
    ("compare", "exp-20260101-000001-bbbbbb"), ("compare", RUN, "20260101-000001-bbbbbb", "--csv"),
    ("delete", RUN), ("stop", RUN), ("stop", EVIL), ("resume", RUN, "--epochs", "-1"), ("export", RUN),
    ("first", RUN), ("rename", RUN, ""), ("modules", "evil"), ("modules", EVIL.replace("\ud800", "")),
    ("modules", "demo"),
    ("plan", "plan.json"), ("plan", "bad.json"), ("train", "bad.json"), ("data", "rows.jsonl", "--show", "2"),
    ("data", "rows.jsonl", "--test-mask", "1"), ("data", "broken.jsonl"), ("config", "evil"),
)  # fmt: skip


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: ascii(command)[:40])
def test_no_command_prints_control_characters(command: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    main(list(command))
    said = "".join(capfd.readouterr())
    assert said.strip() or command[0] in ("first", "rename")
    assert not CONTROL.search(said), CONTROL.findall(said)
    assert "Traceback" not in said


@pytest.mark.usefixtures("folder")
def test_a_row_of_the_list_is_one_line_and_says_why_it_failed(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["runs"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "]52;c;ZXZpbA==" in lines[1]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", [("runs",), ("experiments",), ("compare", RUN), ("modules", "demo")])
def test_json_stays_json(command: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--json"]) == 0
    said = capfd.readouterr().out
    assert not CONTROL.search(said)
    assert json.loads(said)


@pytest.mark.parametrize("value", ["\x1b\x7f\x9b\u202e\U000e0041\ufeff", "ein Text, 中文, עברית, 👩‍👩‍👧", "\n\t"])
def test_escaped_json_holds_the_same_values(value: str) -> None:
    assert json.loads(json_text({"a": value})) == {"a": value}
    assert not CONTROL.search(json_text(value))


def test_ordinary_text_stays_as_it_is() -> None:
    text = "Ein Titel: 中文, עברית, 👩‍👩‍👧, α = 16, “q_proj”\n\tsecond line"
    assert visible(text) == text
    assert one_line(text) == " ".join(text.split())
    assert one_line("a\x1b[31m\u202eb\n c") == "a [31m b c"
