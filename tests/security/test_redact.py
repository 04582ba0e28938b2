"""Secrets: out of logs, events and configurations; the environment is their only place."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.lab import PATIENCE
from trainer.common import redaction
from trainer.common.errors import InvalidConfig
from trainer.config import validation
from trainer.config.schema import default_config
from trainer.runs import event_log

ROOT = Path(__file__).parents[2]
TOKEN = "hf_" + "AbCdEfGh12345678" * 2


@pytest.mark.parametrize(
    "text",
    [
        *(
            f"token {TOKEN}.",
            f"https://user:{TOKEN}@huggingface.co/x",
            f"Authorization: Bearer {TOKEN}",
            f"({TOKEN})",
        ),
        *("GET https://me:s3cr3t-w0rd@example.com/x", "authorization: bearer s3cr3t-w0rd", "api_org_" + "s3cr3t" * 4),
    ],
)
def test_tokens_are_hidden(text: str) -> None:
    assert "AbCdEfGh" not in redaction.redact(text)
    assert "s3cr3t" not in redaction.redact(text)
    assert redaction.HIDDEN in redaction.redact(text)


@pytest.mark.parametrize(
    "text", ["hf_hub_download failed", "q_proj: 40 of 40", "https://huggingface.co/a/b", "12:30 a@b"]
)
def test_other_text_stays(text: str) -> None:
    assert redaction.redact(text) == text


def test_the_secrets_of_the_environment_are_hidden_whatever_they_look_like(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "an odd secret")
    assert redaction.redact_values({"a": ["x an odd secret y"]}) == {"a": [f"x {redaction.HIDDEN} y"]}


def test_events_hold_no_token(tmp_path: Path) -> None:
    event_log.append(tmp_path / "events.jsonl", "log", text=f"401 for {TOKEN}", more={"deep": [TOKEN]})
    assert TOKEN not in (tmp_path / "events.jsonl").read_text()


@pytest.mark.parametrize("place", ["title", "data.system_prompt", "model.name", "model.revision", "data.path"])
def test_a_configuration_with_a_token_is_refused_without_repeating_it(place: str) -> None:
    value = default_config().to_json()
    part, _, name = place.rpartition(".")
    (value[part] if part else value)[name] = f"x {TOKEN}"
    with pytest.raises(InvalidConfig, match="HF_TOKEN") as caught:
        validation.from_json(value)
    assert TOKEN not in str(caught.value)


def test_no_setting_and_no_box_of_the_page_is_for_a_token() -> None:
    names = [field.name for part in dataclasses.fields(default_config()) for field in _fields(part.name)]
    assert not [name for name in names if ("token" in name and "new_tokens" not in name) or "password" in name]
    page = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "ui").glob("*.py") if path.name != "auth.py")
    assert 'type="password"' not in page
    assert "HF_TOKEN" not in page


def _fields(part: str) -> tuple[dataclasses.Field[object], ...]:
    value = getattr(default_config(), part)
    return dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()


def test_what_a_process_prints_is_redacted_in_pieces_and_in_tracebacks() -> None:
    code = f"""
import logging, sys
from trainer.common import redaction
redaction.install()
logging.basicConfig()
print("one {TOKEN}")
print("two", "{TOKEN[:10]}", sep="", end=""); print("{TOKEN[10:]}")
sys.stdout.writelines(["three {TOKEN}"])
logging.warning("four %s", "{TOKEN}")
raise ValueError("five {TOKEN}")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    for word in ("one", "two", "three"):
        assert word in done.stdout
    for word in ("four", "five", "Traceback"):
        assert word in done.stderr
    assert TOKEN[4:] not in done.stdout + done.stderr


def test_the_log_of_a_worker_is_redacted(tmp_path: Path) -> None:
    """As the worker's process sets it up, with a secret in the environment that looks like none."""
    environment = os.environ | {"HF_TOKEN": "an odd secret"}
    log = tmp_path / "worker.log"
    code = f"""
from pathlib import Path
from trainer.execution import worker
worker._log_to(Path({str(log)!r}))
print("an odd secret")
1 / 0
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, timeout=PATIENCE, check=False)
    assert redaction.HIDDEN in log.read_text()
    assert "ZeroDivisionError" in log.read_text()
    assert "an odd secret" not in log.read_text()
