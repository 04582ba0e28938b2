"""Downloads, logs and configurations over plain HTTP, without any session of Gradio, behind the same guards."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.security.asgi import ask
from tests.support.lab import open_lab, plan_of
from trainer.config.schema import Tick, default_config
from trainer.service import Lab
from ui import make_app


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Lab:
    return open_lab(tmp_path_factory.mktemp("lab"), models_dir)


@pytest.fixture(scope="module")
def app(lab: Lab) -> Any:
    return make_app(lab)


@pytest.fixture(scope="module")
def run_id(lab: Lab, models_dir: Path) -> str:
    config = replace(default_config(), modules=(Tick("q_proj"),), title="Pirates")
    run = lab.store.create(config, plan_of(config, models_dir))
    (run.folder / "worker.log").write_text(f"Traceback in {run.folder}/x\nhf_{'a' * 20}\n")
    return run.id


def prepare(app: Any, name: str, value: object, **headers: str) -> tuple[int, list[Any]]:
    status, _, body = ask(app, f"/prepare/{name}", "POST", headers, json.dumps(value).encode())
    return status, [json.loads(line) for line in body.splitlines()] if status == 200 else [body.decode()]


def test_a_download_that_fails_says_why(app: Any, run_id: str) -> None:
    status, lines = prepare(app, "run-file", run_id)
    assert status == 200
    assert "has no adapter yet" in lines[-1]["error"]
    assert "no run" in prepare(app, "run-file", "../x")[1][-1]["error"]
    assert prepare(app, "run-file", {"value": 1})[0] == 404
    assert prepare(app, "nothing", run_id)[0] == 404
    assert prepare(app, "run-file", run_id, origin="http://evil.example")[0] == 403


def test_the_log_and_the_configuration_name_no_folder_and_no_secret(app: Any, run_id: str, lab: Lab) -> None:
    for path in ("log?lines=5", "log.txt", "config/json", "config/script"):
        status, _, body = ask(app, f"/runs/{run_id}/{path.partition('?')[0]}")
        text = body.decode()
        assert status == 200, text
        assert str(lab.settings.runs_dir) not in text
        assert "hf_a" not in text
    assert "Pirates" in text
    assert ask(app, f"/runs/{run_id}/config/pickle")[0] == 404
    assert ask(app, "/runs/20260101-000000-aaaaaa/log")[0] == 404
    assert ask(app, f"/runs/{run_id}/config.json")[0] == 404
