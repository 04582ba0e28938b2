"""Models of the hub, on a stand-in of its API: downloaded once, by the real client, and pinned to a commit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support import hub, tiny
from tests.support.lab import PATIENCE, small_config
from trainer.common.errors import InvalidConfig, UserError
from trainer.config.schema import ModelConfig, Tick
from trainer.models import search
from trainer.models.base_model import BaseModels
from trainer.models.download import fetch
from trainer.models.hub import Hub, Unreachable
from trainer.models.locations import load_config, load_tokenizer
from trainer.runs.event_log import read
from trainer.runs.store import RunStore

NAME = "own/small"
MODEL = ModelConfig(NAME, quantization="none")


@pytest.fixture
def served(tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub.StandIn]:
    """A hub that has one small model, with much beside it that no training needs."""
    place = tmp_path / "hub" / NAME / "main"
    shutil.copytree(models_dir / "llama", place)
    (place / "model.py").write_text("raise SystemExit")
    for extra in ("pytorch_model.bin", "original/consolidated.00.pth", "onnx/model.onnx", "small-Q8_0.gguf"):
        (place / extra).parent.mkdir(exist_ok=True)
        (place / extra).write_bytes(b"much" * 1000)
    with hub.serving(tmp_path / "hub") as stand_in:
        hub.use_here(stand_in.url, tmp_path / "cache", monkeypatch)
        yield stand_in


class Told(NamedTuple):
    model: ModelConfig
    events: list[dict[str, Any]]


def fetched(tmp_path: Path, model: ModelConfig = MODEL, commit: str = "") -> Told:
    events: list[dict[str, Any]] = []
    found = fetch(model, tmp_path / "models", commit, lambda type, **values: events.append({"type": type, **values}))
    return Told(found, events)


def issues(tmp_path: Path, model: ModelConfig = MODEL) -> str:
    return "\n".join(map(str, BaseModels(tmp_path / "models").examine(model).issues))


def weights(served: hub.StandIn) -> int:
    return (served.folder / NAME / "main" / "model.safetensors").stat().st_size


def test_a_download_survives_broken_connections_and_brings_only_what_is_needed(
    served: hub.StandIn, tmp_path: Path
) -> None:
    base = BaseModels(tmp_path / "models").examine(MODEL)
    served.cut_after = 65536
    model, events = fetched(tmp_path)
    assert served.sent == weights(served)  # twice cut off, nothing was sent twice
    assert model.revision == served.commit(NAME, "main") == base.commit
    pins = [event for event in events if event["type"] == "base"]
    assert pins == [{"type": "base", "revision": "main", "commit": base.commit}]
    steps = [event for event in events if event["type"] == "download"]
    done = [step["bytes"] for step in steps]
    assert done == sorted(done) and steps[-1]["bytes"] == steps[-1]["total"] == base.bytes
    assert steps[-1]["files"] == steps[-1]["of"] == base.files == 6
    assert any(0 < step["bytes"] < step["total"] and step["speed"] for step in steps)
    folder = tmp_path / "cache" / "models--own--small" / "snapshots" / base.commit
    assert (folder / "model.safetensors").is_file()
    assert not [path.name for path in folder.rglob("*") if path.suffix in (".py", ".bin", ".pth", ".onnx", ".gguf")]


def test_what_is_here_is_not_downloaded_again_and_needs_no_hub(served: hub.StandIn, tmp_path: Path) -> None:
    commit = fetched(tmp_path).model.revision
    served.asked.clear()
    (served.folder / NAME / "main" / "config.json").write_text("{}")  # main moves on
    model, events = fetched(tmp_path, commit=commit)
    assert (model.revision, events, served.asked) == (commit, [], [])
    assert load_config(model, tmp_path / "models").vocab_size == tiny.VOCABULARY
    assert load_tokenizer(model, tmp_path / "models").chat_template == tiny.CHAT
    assert BaseModels(tmp_path / "models").examine(MODEL).commit == served.commit(NAME, "main") != commit


def test_a_stopped_download_goes_on_where_it_was(served: hub.StandIn, tmp_path: Path) -> None:
    served.piece, served.pause = 16384, 0.3

    def stop(type: str, **values: Any) -> None:
        if type == "download" and values["bytes"]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(MODEL, tmp_path / "models", "", stop)
    time.sleep(0.7)  # the piece that was on its way
    part = next((tmp_path / "cache").rglob("*.incomplete")).stat().st_size
    assert 16384 <= part < weights(served)
    assert BaseModels(tmp_path / "models").examine(MODEL).bytes < weights(served)
    served.pause, served.sent = 0.0, 0
    fetched(tmp_path)
    assert served.sent == weights(served) - part
    assert not list((tmp_path / "cache").rglob("*.incomplete"))


def test_a_damaged_beginning_is_found_by_its_checksum(served: hub.StandIn, tmp_path: Path) -> None:
    commit = served.commit(NAME, "main")
    found = Hub().find(MODEL)
    assert found is not None
    part = found.partial(found.files["model.safetensors"])
    part.parent.mkdir(parents=True)
    part.write_bytes(b"\0" * 70000)
    fetched(tmp_path)
    path = tmp_path / "cache" / "models--own--small" / "snapshots" / commit / "model.safetensors"
    assert path.read_bytes() == (served.folder / NAME / "main" / "model.safetensors").read_bytes()


def test_a_disk_without_room_is_said_before_anything_is_downloaded(
    served: hub.StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_200_000))
    found = issues(tmp_path)
    assert "144 kB" in found and "1.20 MB" in found, "what it needs, what is free"
    with pytest.raises(InvalidConfig, match="HF_HOME"):
        fetched(tmp_path)
    assert served.sent == 0


def test_what_the_hub_refuses_is_said_in_a_sentence(served: hub.StandIn, tmp_path: Path) -> None:
    assert "no model own/none" in issues(tmp_path, ModelConfig("own/none"))
    assert "no such revision" in issues(tmp_path, ModelConfig(NAME, "v9"))
    served.gated.add(NAME)
    with pytest.raises(UserError, match=r"gated.*huggingface.co/own/small.*HF_TOKEN"):
        load_config(MODEL, tmp_path / "models")


def test_pickles_on_the_hub_are_refused_with_the_revision_that_has_safetensors(
    served: hub.StandIn, tmp_path: Path, models_dir: Path
) -> None:
    main = served.folder / NAME / "main"
    (main / "model.safetensors").unlink()
    assert "pytorch_model.bin only" in issues(tmp_path) and "Convert" in issues(tmp_path)
    shutil.copytree(models_dir / "llama", served.folder / NAME / "refs--pr--3")
    served.conversions[NAME] = 3
    assert "refs/pr/3" in issues(tmp_path)
    converted = replace(MODEL, revision="refs/pr/3")
    assert issues(tmp_path, converted) == ""
    assert fetched(tmp_path, converted).model.revision == served.commit(NAME, "refs/pr/3")


def test_a_repository_that_lacks_a_shard_is_refused(served: hub.StandIn, tmp_path: Path) -> None:
    main = served.folder / NAME / "main"
    (main / "model.safetensors").rename(main / "model-00001-of-00002.safetensors")
    places = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (main / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    found = issues(tmp_path)
    assert "1 of its 2" in found and "model-00002-of-00002.safetensors" in found
    assert "authors" in found


def test_without_the_hub_the_cache_serves_and_what_it_lacks_is_said(
    served: hub.StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_config(MODEL, tmp_path / "models")  # as the page does: config.json alone
    hub.use_here("http://127.0.0.1:9", tmp_path / "cache", monkeypatch)
    found, other = issues(tmp_path), issues(tmp_path, ModelConfig("own/other"))
    assert "incomplete" in found and "cannot be reached" in found
    assert "not on this machine" in other and "cannot be reached" in other
    hub.use_here(served.url, tmp_path / "cache", monkeypatch)
    commit = fetched(tmp_path).model.revision
    hub.use_here("http://127.0.0.1:9", tmp_path / "cache", monkeypatch)
    assert issues(tmp_path) == ""
    assert fetched(tmp_path).model.revision == commit


def row(name: str, **values: Any) -> dict[str, Any]:
    return {"id": name, "pipeline_tag": "text-generation", "downloads": 10, "gated": False, "tags": []} | values


def test_the_hub_is_searched_and_its_answers_are_not_trusted(served: hub.StandIn) -> None:
    served.found = [
        row("own/small", tags=["license:apache-2.0"], safetensors={"parameters": {"BF16": 33}, "total": 33}),
        row("own/small-eyes", pipeline_tag="image-classification"),
        row("own/small<script>", tags=["license:<b>"]),
        row("meta/Small-8B", gated="manual", tags=["license:<b>llama"]),
    ]
    found = search.on_hub(Hub(), "small")
    assert [(item.name, item.parameters, item.license, item.gated) for item in found] == [
        ("own/small", 33, "apache-2.0", False),
        ("meta/Small-8B", None, "bllama", True),
    ]


def test_a_silent_hub_holds_nothing_up_twice(served: hub.StandIn) -> None:
    served.silent = 2.0
    asked = Hub()
    assert asked.find(MODEL, 0.3) is None
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"within 0\.3 seconds"):
        search.on_hub(asked, "small")
    assert time.monotonic() - began < 0.1


def test_the_cache_is_offered_once_it_is_whole(served: hub.StandIn, tmp_path: Path) -> None:
    load_config(MODEL, tmp_path / "models")
    assert search.in_cache() == []
    fetched(tmp_path)
    assert [(item.name, item.bytes) for item in search.in_cache()] == [(NAME, weights(served))]


def test_a_run_that_was_killed_in_its_download_goes_on_with_the_same_commit(
    served: hub.StandIn, tmp_path: Path
) -> None:
    """The whole way by the command line: plan, download, kill, resume, train, export."""
    served.piece, served.pause = 8192, 0.3
    config = small_config(tmp_path / "runs" / "data", tmp_path / "rows.jsonl", steps=2, eval_steps=2)
    config = replace(config, model=MODEL, modules=(Tick("q_proj"),))
    (tmp_path / "run.json").write_text(json.dumps(config.to_json()))
    environment = os.environ | hub.environment(served.url, tmp_path / "home")

    def command(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "trainer", "--runs-dir", str(tmp_path / "runs"), *words],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    training = command("train", str(tmp_path / "run.json"), "--json")
    assert training.stdout is not None
    for line in training.stdout:
        if '"download"' in line and json.loads(line)["bytes"] > 8192:
            training.send_signal(signal.SIGKILL)
            break
    training.wait()
    commit = served.commit(NAME, "main")
    shutil.copytree(served.folder / NAME / "main", served.folder / NAME / "old")
    (served.folder / NAME / "main" / "README.md").write_text("main moves on")
    assert served.commit(NAME, "main") != commit == served.commit(NAME, "old")
    store = RunStore(tmp_path / "runs")
    run = store.all()[0]
    assert run.history.commit == commit and run.history.state == "interrupted"
    served.pause, served.sent = 0.0, 0
    resumed = command("resume", run.id)
    said = resumed.communicate(timeout=PATIENCE)[0]
    assert resumed.returncode == 0, said
    assert served.sent < weights(served)
    events, _ = read(run.folder / "events.jsonl")
    assert [event["commit"] for event in events if event["type"] == "base"] == [commit]
    assert json.loads((run.folder / "config.json").read_text())["model"]["revision"] == "main"
    assert events[-1]["state"] == "finished"
