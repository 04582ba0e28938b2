"""A seeded fuzzer: over 10,000 inputs. Each is taken, or refused in a sentence; none hangs, none costs any state."""

from __future__ import annotations

import gzip
import io
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import zstandard

from tests.security import fuzz
from trainer.common.errors import InvalidConfig, UserError
from trainer.common.progress import ProgressMonitor
from trainer.config import validation
from trainer.config.schema import DataConfig, Tick, default_config
from trainer.config.validation import repair
from trainer.data.checking import check
from trainer.execution import analysis_server
from trainer.execution.analysis import Folders, LocalAnalysis
from trainer.models.locations import locate
from trainer.models.model_config import _clean, _refuse_kernels, _walk
from trainer.runs import event_log
from trainer.runs.history import History

CONFIGS, FILES, EVENTS, PAYLOADS = 5000, 2000, 1500, 700
SLOW = 5.0
"""Seconds that no single input may take, on a busy machine either."""
CONFIG = {**default_config().to_json(), "modules": [{"name": "q_proj", "treatment": "lora", "layers": "0-1"}]}


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 120


def is_sentence(error: UserError) -> bool:
    text = str(error)
    return bool(text.strip()) and "Traceback" not in text and 'File "' not in text and len(text) < 20_000


def test_configurations() -> None:
    random, taken = Random(1), 0
    for number in range(CONFIGS):
        written = fuzz.text(fuzz.mutated(CONFIG, random), random)
        began = time.monotonic()
        try:
            config = validation.loads(written)
        except InvalidConfig as error:
            assert is_sentence(error), written
            if number % 10 == 0:
                usable, issues, _ = repair(json.loads(written))
                assert issues
                assert usable is None or validation.validate(usable) == []
        except UserError as error:
            assert is_sentence(error), written
        else:
            taken += 1
            assert validation.validate(config) == []
            assert validation.loads(json.dumps(config.to_json(), allow_nan=False)) == config
        assert time.monotonic() - began < SLOW
    assert taken > CONFIGS / 100  # or nothing but the outermost check was reached


def test_names_and_configurations_of_models(tmp_path: Path) -> None:
    random = Random(2)
    for _ in range(500):
        model = validation.from_json(CONFIG).model
        name = random.choice(fuzz.WORDS) + random.choice(fuzz.WORDS)
        try:
            source, _ = locate(type(model)(name=name, revision=random.choice(fuzz.WORDS)), tmp_path)
            assert not Path(source).is_absolute() or name.strip() == "demo"
        except UserError as error:
            assert is_sentence(error)
        try:
            value = fuzz.mutated({"model_type": "llama", "a": {"b": [1, {"auto_map": 2}]}}, random)
            _refuse_kernels(value, "m")
            assert all(key != "auto_map" for key, _, _ in _walk(_clean(value)))
        except UserError as error:
            assert is_sentence(error)


def seeds() -> dict[str, bytes]:
    """A small valid file of every kind."""
    rows = [{"instruction": f"Where is {number}?", "response": "Here, “there” and\nthere."} for number in range(6)]
    chats = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 3
    import pyarrow
    from pyarrow import parquet

    packed = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(chats), packed)
    return {
        "a.jsonl": "\n".join(json.dumps(row) for row in [*rows, *chats]).encode(),
        "a.json": json.dumps([*rows, *chats], indent=1).encode(),
        "a.csv": b'instruction,response\r\n"a, b","c ""d""\r\ne"\r\nf,g\r\n',
        "a.tsv": b"question\tanswer\na\tb\nc\td\n",
        "a.txt": b"One paragraph\nof two lines.\n\nAnother one.\n",
        "a.parquet": packed.getvalue(),
        "a.jsonl.gz": gzip.compress(json.dumps(rows[0]).encode()),
        "a.csv.zst": zstandard.compress(b"question,answer\na,b\nc,d\n"),
    }


def test_data_files(tmp_path: Path) -> None:
    random, known, taken = Random(3), seeds(), 0
    for number in range(FILES):
        name = list(known)[number % len(known)]
        (tmp_path / name).write_bytes(fuzz.damaged(known[name], random))
        began = time.monotonic()
        try:
            checked = check(DataConfig(source="file", path=name), tmp_path)
        except UserError as error:
            assert is_sentence(error)
            assert error.cause == "data"
        else:
            taken += not checked.bad
            json.dumps(list(checked.examples()), ensure_ascii=False).encode()  # texts that a tokenizer can take
        assert time.monotonic() - began < SLOW
    assert taken > FILES / 20


def test_event_files(tmp_path: Path) -> None:
    random, path = Random(4), tmp_path / "events.jsonl"
    good = [
        {"type": "state", "state": "running", "steps": 10, "time": 1.0},
        {"type": "metrics", "step": 1, "loss": 2.0, "learning_rate": 1e-4, "time": 2.0, "elapsed": 1.0},
        {"type": "eval", "step": 1, "eval_loss": 2.0, "time": 3.0},
        {"type": "log", "text": "a", "time": 4.0},
    ]
    for _ in range(EVENTS):
        rows = [json.dumps(fuzz.mutated(row, random)).encode("utf-8", "surrogatepass") for row in good]
        written = b"\n".join(rows) + b"\n"
        path.write_bytes(fuzz.damaged(written, random) if random.random() < 0.5 else written)
        began = time.monotonic()
        history = History(tmp_path).refresh()
        assert isinstance(history.state, str)
        assert isinstance(history.step, int)
        assert math.isfinite(history.elapsed())
        history.remaining()
        event_log.append(path, "log", text="the last word")  # what comes after the damage is not lost
        assert history.refresh().log[-1] == "the last word"
        assert time.monotonic() - began < SLOW


@pytest.mark.parametrize("key", ["steps", "examples", "step", "loss", "time", "elapsed"])
def test_an_event_with_an_endless_number_costs_nothing(key: str, tmp_path: Path) -> None:
    for row in ({"type": "metrics", "step": 1, "elapsed": 2.0}, {"type": "state", "state": "running", "steps": 10}):
        with (tmp_path / "events.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n" + json.dumps(row | {key: 10**400}) + "\n")
    history = History(tmp_path).refresh()
    assert history.remaining() == 18.0
    assert history.state


class Here(LocalAnalysis):
    """The analysis process's answers without its process: what fails unexpectedly is told as it tells it."""

    def call(self, request: str, monitor: ProgressMonitor | None = None, **arguments: Any) -> Any:  # noqa: ARG002
        folders = Folders(self.models_dir, self.data_dir, lambda *_: None)
        found = analysis_server.answer(folders, request, arguments)
        if "problem" in found:
            raise UserError(found["problem"], found["fix"], found["cause"])
        return found["result"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """A client of the real app and its lab, with one run in it. Nothing trains: the scheduler is not started."""
    from starlette.testclient import TestClient

    import ui
    from trainer.service import Lab, Settings, planning

    lab = Lab(Settings(runs_dir=tmp_path_factory.mktemp("fuzz") / "runs"))
    lab.model_analysis = Here(lab.settings.models_dir, lab.settings.data_dir)
    config = validation.from_json(CONFIG)
    lab.store.create(config, planning.plan(lab, config))
    with TestClient(ui.make_app(lab), base_url="http://127.0.0.1", raise_server_exceptions=True) as client:
        yield client, lab
    lab.close()


def test_payloads_by_name_and_by_index(served: tuple[Any, Any], capfd: pytest.CaptureFixture[str]) -> None:
    client, lab = served
    random = Random(5)
    kept = lab.store.all()[0]
    before = {path.name: path.read_bytes() for path in kept.folder.iterdir() if path.is_file()}
    functions = client.get("/config").json()["dependencies"]
    assert len(functions) > 30
    named = [item["api_name"] for item in functions if isinstance(item["api_name"], str)]
    for number in range(PAYLOADS):
        chosen = functions[number % len(functions)]
        values = [payload(random) for _ in range(len(chosen["inputs"]) + random.choice((0, 0, 0, 1, -1)))]
        body: Any = {"data": values, "fn_index": chosen["id"], "session_hash": "fuzz"}
        if random.randrange(30) == 0:
            body = payload(random)
        written = json.dumps(body).encode("utf-8", "surrogatepass")
        if random.randrange(20) == 0:
            written = fuzz.damaged(written, random)
        path = f"/gradio_api/run/{random.choice(named)}" if random.randrange(4) == 0 else "/gradio_api/run/predict"
        began = time.monotonic()
        answer = client.post(path, content=written, headers={"content-type": "application/json"})
        assert time.monotonic() - began < SLOW, (chosen, written[:500])
        assert "Traceback" not in answer.text
        assert 'File "' not in answer.text
    assert client.get("/config").status_code == 200
    assert {path.name: path.read_bytes() for path in kept.folder.iterdir() if path.is_file()} == before
    assert all(not run.problem for run in lab.store.all())
    logged = capfd.readouterr()
    assert "Traceback" not in logged.err + logged.out, logged.err[-3000:]


def payload(random: Random) -> Any:
    """What a handler may be sent: junk, a mutated configuration, ticks, a file that was never uploaded."""
    kind = random.randrange(8)
    if kind == 0:
        return fuzz.mutated(CONFIG, random)
    if kind == 1:
        return fuzz.text(fuzz.mutated([Tick("q_proj").__dict__], random), random)
    if kind == 2:
        path = random.choice(("/etc/passwd", "README.md", "http://127.0.0.1:1/x", "runs", "\0", 3))
        return {"path": path, "meta": {"_type": "gradio.FileData"}}
    if kind == 3:
        return random.choice(("20260101-000000-abcdef", "../../etc", "a|b|c|d", "9999|9|9|9"))
    return fuzz.value(random)
