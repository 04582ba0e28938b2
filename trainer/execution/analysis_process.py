"""The warm helpers: processes beside the app that have torch and transformers imported already.

The app asks (`Helper.module_map`), the process answers: one JSON row over its pipes, after rows that tell how far
it is. SIGINT breaks off what it does. It ends when the app does, and is started again if it dies. One reads models;
another one reads data, so that a long check holds no module map up.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainer.common import redaction
from trainer.common.errors import UserError
from trainer.config import validation
from trainer.config.schema import ModelConfig
from trainer.models.locations import files_stamp
from trainer.models.module_map import ModuleMap

Progress = Callable[[str, float], None]
"""Called as progress(stage, share)."""
Key = tuple[str, str, tuple[tuple[int, int], ...]]
"""Name, revision and files of a model: a folder that is replaced is read anew."""
TOLD = '{"progress":'


class Cancelled(UserError):
    """Somebody broke a call off."""

    def __init__(self) -> None:
        super().__init__("The check was broken off.", "", "data")


class Watcher:
    """Who waits for a call: is told how far it is, and may break it off from another thread."""

    def __init__(self, progress: Progress | None = None) -> None:
        self.progress: Progress = progress or (lambda *_: None)
        self._asked = threading.Event()
        self._lock = threading.Lock()
        self._act: Callable[[], None] | None = None

    def cancel(self) -> None:
        """Break the call off; before it has begun, it will not begin."""
        with self._lock:
            self._asked.set()
            if self._act is not None:
                self._act()

    def check(self) -> None:
        """Raises Cancelled where the call is not wanted any more."""
        if self._asked.is_set():
            raise Cancelled

    @contextlib.contextmanager
    def watching(self, act: Callable[[], None]) -> Iterator[None]:
        """Within, `cancel` calls `act`. Raises Cancelled where it came before or within."""
        with self._lock:
            self.check()
            self._act = act
        try:
            yield
        finally:
            with self._lock:
                self._act = None
        self.check()


class Helper:
    """The app's side. Calls wait for their turn; maps are kept, so a model is read once."""

    def __init__(self, models_dir: Path, data_dir: Path, task: str = "models") -> None:
        self._command = [
            sys.executable,
            "-m",
            "trainer.execution.analysis_process",
            str(models_dir),
            str(data_dir),
            task,
        ]
        self._process: subprocess.Popen[str] | None = None
        self._turn = threading.Lock()
        self._models_dir = models_dir
        self._maps: dict[Key, ModuleMap] = {}
        self._vocabularies: dict[Key, frozenset[str]] = {}

    def start(self) -> None:
        """Start the process, so that its imports run before it is needed."""
        if self._turn.acquire(blocking=False):  # else it runs, and is busy
            try:
                self._running()
            finally:
                self._turn.release()

    def module_map(self, model: ModelConfig) -> ModuleMap:
        """The module map of `model`. Raises UserError where it cannot be read."""
        key = self._key(model)
        if key not in self._maps:
            self._maps[key] = ModuleMap.from_json(self.call("modules", model=asdict(model)))
        return self._maps[key]

    def vocabulary(self, model: ModelConfig) -> frozenset[str]:
        """The tokens of the model's tokenizer. Raises UserError where it cannot be read."""
        key = self._key(model)
        if key not in self._vocabularies:
            self._vocabularies[key] = frozenset(self.call("vocabulary", model=asdict(model)))
        return self._vocabularies[key]

    def known(self, model: ModelConfig) -> ModuleMap | None:
        """The map if it has been read already, without asking."""
        return self._maps.get(self._key(model))

    def _key(self, model: ModelConfig) -> Key:
        return model.name.strip(), model.revision, files_stamp(model, self._models_dir)

    def call(self, name: str, watcher: Watcher | None = None, **arguments: Any) -> Any:
        """Ask the process. Raises UserError with its answer, or where it died; Cancelled, if `watcher` was."""
        watcher = watcher or Watcher()
        with self._waited_for(watcher):
            process = self._running()
            with watcher.watching(lambda: process.send_signal(signal.SIGINT)):
                line = _exchange(process, {"call": name, "arguments": arguments}, watcher.progress)
        if not line:
            raise UserError(
                "The helper process ended before it answered.", "Try again; it starts anew by itself.", "bug"
            )
        answer = json.loads(line)
        if "problem" in answer:
            raise UserError(answer["problem"], answer["fix"], answer["cause"])
        return answer["result"]

    @contextlib.contextmanager
    def _waited_for(self, watcher: Watcher) -> Iterator[None]:
        """This call's turn, once the calls before it are done."""
        while not self._turn.acquire(timeout=0.2):
            watcher.check()
            watcher.progress("waiting", 0.0)
        try:
            yield
        finally:
            self._turn.release()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
            )
        return self._process


def _exchange(process: subprocess.Popen[str], request: dict[str, Any], progress: Progress) -> str:
    """The process's answer, a line of JSON; empty where it died."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        while line.startswith(TOLD):
            progress(*json.loads(line)["progress"])
            line = process.stdout.readline()
    except OSError:
        return ""
    return line


class _Break(BaseException):
    """Raised by SIGINT in the process, wherever it is."""


_idle = threading.Event()
"""Set while the process has nothing to do: a SIGINT that comes too late, or from a terminal, then does nothing."""


def _on_interrupt(*_: Any) -> None:
    if not _idle.is_set():
        raise _Break


def serve(models_dir: Path, data_dir: Path, task: str) -> None:
    """The process's side: answer requests until the app closes the pipe."""
    signal.signal(signal.SIGINT, _on_interrupt)
    redaction.install()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with the answers

    def reply(value: dict[str, Any]) -> None:
        replies.write(json.dumps(value) + "\n")
        replies.flush()

    known = calls(models_dir, data_dir, lambda stage, share: reply({"progress": [stage, share]}))
    _warm_up(task)
    _idle.set()
    for line in sys.stdin:
        request = json.loads(line)
        reply(_answer(known[request["call"]], request["arguments"]))


def calls(models_dir: Path, data_dir: Path, progress: Progress) -> dict[str, Callable[..., Any]]:
    """What can be asked, by name."""
    return {
        "modules": lambda model: _modules(model, models_dir),
        "vocabulary": lambda model: _vocabulary(model, models_dir),
        "data_report": lambda config: _data_report(config, models_dir, data_dir, progress),
        "data_issues": lambda config: _data_issues(config, models_dir, data_dir, progress),
        "data_size": lambda config: _data_size(config, models_dir, data_dir, progress),
        "data_example": lambda config, which: _data_example(config, which, models_dir, data_dir),
    }


def _answer(call: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        _idle.clear()
        return {"result": call(**arguments)}
    except _Break:
        return {"problem": "The check was broken off.", "fix": "", "cause": "data"}
    except UserError as error:
        return {"problem": error.problem, "fix": error.fix, "cause": error.cause}
    except Exception as error:
        import traceback

        traceback.print_exc()
        return {
            "problem": f"This model or data cannot be read: {type(error).__name__}: {str(error)[:200]}.",
            "fix": "Please report it with the log of the app.",
            "cause": "bug",
        }
    finally:
        _idle.set()


def _modules(model: dict[str, Any], models_dir: Path) -> dict[str, Any]:
    from trainer.models.discovery.discover import discover
    from trainer.models.locations import load_config

    config = ModelConfig(**model)
    return discover(load_config(config, models_dir), config.name).to_json()


def _vocabulary(model: dict[str, Any], models_dir: Path) -> list[str]:
    from trainer.models.locations import load_tokenizer

    return list(load_tokenizer(ModelConfig(**model), models_dir).get_vocab())


def _data_report(config: dict[str, Any], models_dir: Path, data_dir: Path, progress: Progress) -> dict[str, Any]:
    from trainer.data.inspection import data_report

    return data_report(validation.from_json(config), models_dir, data_dir, progress)


def _data_issues(
    config: dict[str, Any], models_dir: Path, data_dir: Path, progress: Progress
) -> list[dict[str, str]]:
    from trainer.data.inspection import data_issues

    found = data_issues(validation.from_json(config), models_dir, data_dir, progress)
    return [issue.to_json() for issue in found]


def _data_size(config: dict[str, Any], models_dir: Path, data_dir: Path, progress: Progress) -> dict[str, Any] | None:
    from trainer.data.inspection import data_size

    found = data_size(validation.from_json(config), models_dir, data_dir, progress)
    return asdict(found) if found else None


def _data_example(config: dict[str, Any], which: str, models_dir: Path, data_dir: Path) -> dict[str, Any]:
    from trainer.data.inspection import data_example

    return data_example(validation.from_json(config), which, models_dir, data_dir)


def _warm_up(task: str) -> None:
    if task == "data":
        import trainer.data.inspection

        assert trainer.data.inspection
        return
    import gc

    import torch

    torch.set_num_threads(1)
    _modules({"name": "demo"}, Path())  # what the first map of a process pays for, it pays now
    gc.collect()
    gc.freeze()  # torch's own objects are there to stay: no use in looking at them again and again


if __name__ == "__main__":
    with contextlib.suppress(_Break):  # before it was ready: the app starts another one
        serve(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
