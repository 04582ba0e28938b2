"""Trainer callback of short trainings: times the steps, ends one that has diverged, and stops on request."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback


class StepClock(TrainerCallback):  # type: ignore[misc]
    """After the training, it says how that went."""

    def __init__(self, stop_asked: Callable[[], bool]) -> None:
        self._stop_asked = stop_asked
        self._times: list[float] = []
        self.stopped = self.diverged = False

    @property
    def step_seconds(self) -> float:
        """Mean seconds of a step, without the first one, which allocates."""
        times = self._times[1:] if len(self._times) > 2 else self._times
        return (times[-1] - times[0]) / (len(times) - 1)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._times.append(time.monotonic())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._times.append(time.monotonic())
        self.stopped = self._stop_asked()
        control.should_training_stop = control.should_training_stop or self.stopped

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        if "loss" in logs and not math.isfinite(float(logs["loss"])):
            self.diverged = control.should_training_stop = True
