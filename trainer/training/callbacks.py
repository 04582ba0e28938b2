"""Trainer callback that writes metrics, evals and checkpoints as events, and stops on request."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback

from trainer.common.disk import check_space
from trainer.common.errors import UserError
from trainer.training import checkpoints

Sink = Callable[..., None]
"""Called as `sink(type, **values)`: writes one event."""


class Recorder(TrainerCallback):  # type: ignore[misc]
    """Writes events, stops on request, marks checkpoints complete."""

    def __init__(self, sink: Sink, stop_asked: Callable[[], bool], examples: int, before: int = 0) -> None:
        """`before`: `memory_held()` before the model was loaded."""
        self._sink, self._stop_asked, self._examples, self._before = sink, stop_asked, examples, before
        self._elapsed = self._tokens = 0.0
        self._resumed_at = self._last = time.monotonic()
        self._stepped = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._elapsed = next((row["elapsed"] for row in reversed(state.log_history) if "elapsed" in row), 0.0)
        self._resumed_at = self._last = time.monotonic()
        self._tokens = float(state.num_input_tokens_seen)
        self._sink("state", state="running", steps=state.max_steps, examples=self._examples)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if self._stop_asked():
            control.should_training_stop = control.should_save = True
        if state.global_step >= state.max_steps:
            control.should_save = True  # so that more epochs can be added later
            control.should_evaluate = control.should_evaluate or args.eval_strategy != "no"
        if control.should_save:
            self._check_space(Path(args.output_dir), model)

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Save right after an eval during which a stop was requested; transformers saves after evaluating.

        Samples come between the eval and this. They do not count for the speed of the next step nor, before the first
        step, for the time from which the rest is estimated.
        """
        now = time.monotonic()
        if not self._stepped:
            self._resumed_at += now - self._last
        self._last = now
        if self._stop_asked() and state.global_step and not control.should_save:
            control.should_training_stop = control.should_save = True
            self._check_space(Path(args.output_dir), model)

    def _check_space(self, folder: Path, model: Any) -> None:
        """Weights and two moments each; the size of an earlier checkpoint is a better estimate."""
        trained = sum(weight.numel() * weight.element_size() for weight in model.parameters() if weight.requires_grad)
        known = checkpoints.bytes_of_newest(folder)
        place = folder if folder.exists() else folder.parent
        check_space(place, (known or 3 * trained) + 2**20, "a checkpoint")

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any], optimizer: Any = None, **_: Any
    ) -> None:
        if "eval_loss" in logs:
            loss = float(logs["eval_loss"])
            self._sink(
                "eval",
                step=state.global_step,
                eval_loss=loss,
                perplexity=math.exp(loss) if loss < 700 else None,
                eval_accuracy=logs.get("eval_mean_token_accuracy"),
            )
            self._last = time.monotonic()
        elif "loss" in logs:
            self._log_step(state, logs)
            self._check_finite(state.global_step, logs, getattr(optimizer, "scaler", None))

    def _log_step(self, state: Any, logs: dict[str, Any]) -> None:
        now = time.monotonic()
        elapsed = self._elapsed + now - self._resumed_at
        tokens = float(logs["num_input_tokens_seen"])
        state.log_history[-1]["elapsed"] = elapsed  # carried by the checkpoint into a resumed run
        self._sink(
            "metrics",
            step=state.global_step,
            epoch=logs.get("epoch"),
            loss=float(logs["loss"]),
            learning_rate=logs.get("learning_rate"),
            grad_norm=float(logs["grad_norm"]) if "grad_norm" in logs else None,
            accuracy=logs.get("mean_token_accuracy"),
            **({"router_loss": logs["router_loss"]} if "router_loss" in logs else {}),
            tokens=tokens,
            tokens_per_second=(tokens - self._tokens) / max(now - self._last, 1e-6),
            memory=max(0, memory_peak() - self._before),
            elapsed=elapsed,
        )
        self._last, self._tokens, self._stepped = now, tokens, True

    def _check_finite(self, step: int, logs: dict[str, Any], scaler: Any) -> None:
        """Raise UserError if the loss or the gradient is not finite.

        `scaler`: torch's GradScaler in float16, else None. It skips steps whose scaled gradients overflow, and halves
        its scale; only a scale below 1 says that the gradients themselves overflow.
        """
        wrong = [name for name in ("loss", "grad_norm") if name in logs and not math.isfinite(float(logs[name]))]
        if wrong == ["grad_norm"] and scaler is not None and scaler.get_scale() >= 1:
            self._sink("log", text=f"Step {step} is skipped: float16 overflowed. Loss scale: {scaler.get_scale():g}")
        elif wrong:
            rate = "Lower the learning rate, and check the data around that step."
            raise UserError(
                f"The {wrong[0].replace('_', ' ')} is not a finite number at step {step}.",
                rate if scaler is None else "Set dtype to float32: the model may need more range than float16 has.",
                "nonfinite",
            )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir)
        checkpoints.mark_complete(folder / f"checkpoint-{state.global_step}")
        checkpoints.remove_old(folder)
        self._sink("checkpoint", step=state.global_step)


def memory_peak() -> int:
    """Peak bytes so far: allocated by torch on the GPU, or held by this process without one."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    # getrusage includes the parent's peak after a fork, and psutil has no peak on Linux
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory_held() -> int:
    """Bytes held now, counted like `memory_peak`: on a CPU, this includes libraries and data."""
    if torch.cuda.is_available():
        return int(torch.cuda.memory_allocated())
    return int(psutil.Process().memory_info().rss)
