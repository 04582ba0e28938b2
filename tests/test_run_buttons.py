"""What the live panel offers for a failed run, by its cause."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.config.schema import RunConfig
from trainer.runs import event_log
from trainer.runs.history import History
from trainer.runs.run import Run
from ui.panels.run_buttons import next_step, offered


@pytest.mark.parametrize(
    ("cause", "first", "then"),
    [
        ("nonfinite", "again", "Change the settings in a new run like this."),
        ("oom", "again", "Change the settings in a new run like this."),
        ("disk", "resume", "Resume continues from step 40."),
        ("hung", "resume", "Resume continues from step 40."),
    ],
)
def test_a_failed_run_offers_first_what_helps(cause: str, first: str, then: str, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    event_log.append(events, "checkpoint", step=40)
    event_log.append(events, "state", state="failed", cause=cause)
    (tmp_path / "checkpoints" / "checkpoint-40").mkdir(parents=True)
    run = Run(tmp_path, RunConfig(), "", History(tmp_path).refresh())
    assert offered(run, "failed")[0] == first
    assert ("resume" in offered(run, "failed")) == (cause != "nonfinite")  # the same steps would fail again
    assert next_step(run, "failed") == then
    (tmp_path / "checkpoints" / "checkpoint-40").rmdir()
    assert next_step(run, "failed") == then.replace("continues from step 40", "starts from the beginning")
