"""python -m trainer.execution.analysis_server MODELS_DIR DATA_DIR TASK: the process that answers `analysis.REQUESTS`.

A request is one line of JSON on standard input; the replies are lines of JSON: `ready` once, then, for each request,
any number of `progress`, and a `result` or a `problem`. SIGINT cancels the current request. It has a memory limit,
and ends with the thread that started it, even while it is busy.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from trainer.common import redaction
from trainer.common.errors import UserError
from trainer.common.progress import Canceled
from trainer.execution.analysis import Folders, OutOfMemory, run

MEMORY_LIMIT = 4 * 2**30
"""Bytes of memory of its own. torch, transformers and the demo's module map take 0.4 GiB."""
_PR_SET_PDEATHSIG = 1


class _Interrupted(BaseException):
    """Raised by SIGINT, at any point of a request."""


_idle = threading.Event()
"""Set while the process is idle: a late SIGINT, or one from a terminal, then has no effect."""


def _on_interrupt(*_: Any) -> None:
    if not _idle.is_set():
        raise _Interrupted


def serve(models_dir: Path, data_dir: Path, task: str) -> None:
    """Answer requests until the app closes the pipe. `task`, models or data, decides what is imported in advance."""
    signal.signal(signal.SIGINT, _on_interrupt)
    _end_with_the_app()
    # not the address space, of which libraries reserve far more than they use
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT, MEMORY_LIMIT))
    with contextlib.suppress(OSError):  # where memory is short, the kernel should end this process, not a training
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    redaction.install()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with the replies

    def reply(value: dict[str, Any]) -> None:
        replies.write(json.dumps(value) + "\n")
        replies.flush()

    folders = Folders(models_dir, data_dir, lambda stage, share: reply({"progress": [stage, share]}))
    _warm_up(folders, task)
    _idle.set()
    reply({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        found = answer(folders, request["call"], request["arguments"])
        reply(found | {"spent": True} if _is_spent() else found)


def answer(folders: Folders, request: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The reply to a request: its result, or what went wrong."""
    try:
        _idle.clear()
        return {"result": run(folders, request, arguments)}
    except _Interrupted:
        return _failure(Canceled())
    except OutOfMemory as error:
        return _failure(error) | {"spent": True}
    except UserError as error:
        return _failure(error)
    except Exception as error:
        import traceback

        traceback.print_exc()
        problem = f"This model or data cannot be read: {type(error).__name__}: {str(error)[:200]}."
        return _failure(UserError(problem, "Please report it with the app's log.", "bug"))
    finally:
        _idle.set()


def _is_spent() -> bool:
    """Whether so much memory is still held that the next request could lack it, and be blamed."""
    if _memory() > MEMORY_LIMIT // 2:
        gc.collect()
    return _memory() > MEMORY_LIMIT // 2


def _memory() -> int:
    """Bytes that count toward the limit."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5]) * resource.getpagesize()


def _failure(error: UserError) -> dict[str, Any]:
    return {"problem": error.problem, "fix": error.fix, "cause": error.cause}


def _end_with_the_app() -> None:
    """Let the kernel kill this process when the thread that started it ends, whatever this process is doing."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _warm_up(folders: Folders, task: str) -> None:
    if task == "data":
        import trainer.data.inspection

        assert trainer.data.inspection
        return
    import torch

    torch.set_num_threads(1)
    run(folders, "modules", {"model": {"name": "demo"}})  # pays the cost of a process's first module map now
    gc.collect()
    gc.freeze()  # torch's own objects stay, so the garbage collector need not scan them again


if __name__ == "__main__":
    with contextlib.suppress(_Interrupted):  # before it was ready; the app starts another one
        serve(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
