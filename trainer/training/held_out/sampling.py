"""Answers held-out prompts at each evaluation, on the model as it trains, without changing what it learns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from trainer.common import heartbeat
from trainer.common.formatting import count, duration, percent
from trainer.data.sample_prompts import SamplePrompt, readable
from trainer.runs import event_log
from trainer.runs.samples import FILE, shortened
from trainer.training.callbacks import Sink
from trainer.training.held_out.generation import answer
from trainer.training.held_out.guard import problem_of

NO_HELD_OUT = "There are no samples, since no examples are held out."
NO_PROMPTS = "There are no samples: no held-out example has an answer within max_length."


class Sampler(TrainerCallback):  # type: ignore[misc]
    """Generates the answers and writes them to the run's samples.jsonl. A failure is logged and ends only them."""

    def __init__(
        self,
        trainer: Any,
        prompts: Sequence[SamplePrompt],
        folder: Path,
        sink: Sink,
        stop_asked: Callable[[], bool],
    ) -> None:
        """`trainer`: a ModulesTrainer."""
        self._trainer, self._prompts, self._path = trainer, list(prompts), folder / FILE
        self._sink, self._stop_asked = sink, stop_asked
        self._times = self._tokens = 0
        self._seconds, self._began = 0.0, time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._began = time.monotonic()

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self._prompts or self._stop_asked():
            return
        began = time.monotonic()
        if problem := problem_of(lambda: self._sample(state.global_step)):
            self._prompts = []
            self._sink("log", text=f"No more samples: {problem} Training goes on without them.")
        self._seconds += time.monotonic() - began

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._times:
            share = percent(self._seconds / max(time.monotonic() - self._began, 1e-6))
            self._sink(
                "log",
                text=f"Samples took {share} of the time ({duration(self._seconds)}, {count(self._tokens)} tokens)",
            )

    def _sample(self, step: int) -> None:
        began = time.monotonic()
        with heartbeat.phase(heartbeat.SAMPLING):
            answers = answer(self._trainer, self._prompts, self._stop_asked)
        if self._stop_asked():
            return  # the answers are incomplete
        tokens = sum(len(row) for row, _ in answers)
        if not self._times:
            self._write_prompts()
        self._times, self._tokens = self._times + 1, self._tokens + tokens
        texts = [
            {"text": shortened(readable(row, self._trainer.processing_class)), "ended": ended}
            for row, ended in answers
        ]
        seconds = round(time.monotonic() - began, 3)
        event_log.append(self._path, "answers", step=step, answers=texts, tokens=tokens, seconds=seconds)

    def _write_prompts(self) -> None:
        shown = [
            {name: shortened(getattr(prompt, name)) for name in ("text", "before", "reference")}
            for prompt in self._prompts
        ]
        event_log.append(self._path, "prompts", prompts=shown)
