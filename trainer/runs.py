"""Run folders: create, list, open, rename, delete. The folder is the single truth of a run."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import events, parsing
from trainer.config import RunConfig
from trainer.errors import UserError
from trainer.history import ENDED, History
from trainer.plan import Plan

RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
MAX_TITLE = 120


@dataclass
class Run:
    """One run: its folder, its configuration, its history."""

    folder: Path
    config: RunConfig | None
    """None where config.json cannot be read by this version; `problem` says why."""
    problem: str
    history: History

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def title(self) -> str:
        try:
            text = (self.folder / "title").read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            text = ""
        return text or (self.config.title if self.config else "") or self.id

    @property
    def adapter(self) -> Path:
        """Folder of the newest saved adapter; it exists once there is one."""
        return self.folder / "adapter"

    def plan(self) -> dict[str, Any]:
        """plan.json as it was when the run was made; empty where it cannot be read."""
        try:
            value = json.loads((self.folder / "plan.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def summary(self) -> dict[str, Any]:
        """The row of `runs --json` and of the page's table."""
        history, plan = self.history.refresh(), self.plan()
        return {
            "id": self.id,
            "title": self.title,
            "state": history.state if not self.problem else "failed",
            "cause": history.cause,
            "message": history.message or self.problem,
            "model": self.config.model.name if self.config else "",
            "modules": describe_ticks(self.config) if self.config else "",
            "step": history.step,
            "steps": history.steps,
            "loss": history.latest.get("loss"),
            "eval_loss": history.latest.get("eval_loss"),
            "best_eval_loss": history.best_eval_loss,
            "trainable": plan.get("trainable"),
            "adapter_bytes": plan.get("adapter_bytes"),
            "memory": history.latest.get("memory"),
            "tokens_per_second": history.latest.get("tokens_per_second"),
            "elapsed": history.elapsed(),
            "created": created(self.id),
        }


class RunStore:
    """All runs below one folder. Histories are kept, so that a refresh reads only what is new."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._runs: dict[str, Run] = {}
        self._lock = threading.RLock()

    def create(self, config: RunConfig, plan: Plan, state: str = "queued") -> Run:
        """A new run folder; it appears whole or not at all. `starting` keeps an app from launching it, too."""
        run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        draft = Path(tempfile.mkdtemp(prefix=".new-", dir=self.folder))
        draft.chmod(0o755)
        write_json(draft / "config.json", config.to_json())
        write_json(draft / "plan.json", plan.to_json())
        events.append(draft / "events.jsonl", "state", state=state)
        draft.rename(self.folder / run_id)
        return self.get(run_id)

    def ids(self) -> list[str]:
        """Ids of all runs, newest first."""
        with os.scandir(self.folder) as entries:
            found = [entry.name for entry in entries if RUN_ID.fullmatch(entry.name)]
        return sorted(found, reverse=True)

    def get(self, run_id: str) -> Run:
        """The run `run_id`, its history refreshed. Raises UserError if there is none."""
        folder = self.folder / run_id
        if not RUN_ID.fullmatch(run_id) or not folder.is_dir():
            raise UserError(f"There is no run {run_id[:60]!r}.", "Choose one from the list of runs.", "data")
        with self._lock:
            run = self._runs.get(run_id) or _open(folder)
            self._runs[run_id] = run
            run.history.refresh()
        return run

    def all(self) -> list[Run]:
        """All runs, newest first; one deleted meanwhile is left out."""
        found = []
        for run_id in self.ids():
            try:
                found.append(self.get(run_id))
            except UserError:
                continue
        return found

    def rename(self, run_id: str, title: str) -> None:
        """Give a run another title: plain text of at most MAX_TITLE characters."""
        run = self.get(run_id)
        text = " ".join(title.split())[:MAX_TITLE]
        write_atomic(run.folder / "title", text.encode())

    def delete(self, run_id: str) -> None:
        """Remove a run for good. Raises UserError while it runs."""
        run = self.get(run_id)
        if run.history.state not in (*ENDED, "queued"):
            raise UserError(f"{run.title} is still running.", "Stop it first, then delete it.", "data")
        grave = self.folder / f".deleted-{run_id}"
        run.folder.rename(grave)
        with self._lock:
            self._runs.pop(run_id, None)
        shutil.rmtree(grave, ignore_errors=True)


def describe_ticks(config: RunConfig) -> str:
    """Ticks in few words: `LoRA q_proj, k_proj · full lm_head`."""
    parts = []
    for treatment, title in (("lora", "LoRA"), ("full", "full")):
        names = [tick.name for tick in config.modules if tick.treatment == treatment]
        if names:
            parts.append(f"{title} {', '.join(names)}")
    return " · ".join(parts)


def created(run_id: str) -> float:
    """Seconds since 1970 at which the run was made, as its id says."""
    return time.mktime(time.strptime(run_id[:15], "%Y%m%d-%H%M%S"))


def _open(folder: Path) -> Run:
    try:
        config, problem = parsing.load(folder / "config.json"), ""
    except UserError as error:
        config, problem = None, f"Its config.json cannot be used: {error}"
    return Run(folder, config, problem, History(folder))


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False).encode())


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or as it was before."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)
