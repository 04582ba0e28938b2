"""Scores the answers to held-out prompts where they are short, before the first step and after the last.

Long answers have many right forms, which only their loss compares; short ones (a label, a name, a number) are right
or wrong.
"""

from __future__ import annotations

import string
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from trainer.common import heartbeat
from trainer.common.formatting import duration, percent
from trainer.config.schema import RunConfig
from trainer.data.preparation import PreparedData
from trainer.data.sample_prompts import SamplePrompt, readable, sample_prompts
from trainer.planning.samples import MAX_PROMPT
from trainer.runs import row_losses
from trainer.training.callbacks import Sink
from trainer.training.held_out.generation import answer
from trainer.training.held_out.guard import problem_of

SHORT = 16
"""Tokens of a short reference answer, at most."""
SHARE = 0.9
"""Share of the held-out answers that must be short."""
MOST, FEWEST = 128, 8
"""Prompts that are scored."""
BATCH = 16
"""Prompts that are answered at once."""


def short_answers(config: RunConfig, data: PreparedData) -> tuple[SamplePrompt, ...]:
    """The held-out prompts that are scored; none if their answers are long, or the run has no samples."""
    if not config.training.samples or data.held_out is None or data.template is None:
        return ()
    if data.held_out.column("document").any():
        return ()
    longest = min(config.training.max_length, MAX_PROMPT)
    found = sample_prompts(data.held_out, data.template, config.data, MOST, longest)
    short = tuple(prompt for prompt in found if prompt.reference_tokens <= SHORT and _plain(prompt.reference))
    return short if len(short) >= max(FEWEST, SHARE * len(found)) else ()


class TaskScores(TrainerCallback):  # type: ignore[misc]
    """Writes which answers are wrong to the run's row_losses.json. A failure is logged and ends only this."""

    def __init__(
        self,
        trainer: Any,
        prompts: Sequence[SamplePrompt],
        folder: Path,
        sink: Sink,
        stop_asked: Callable[[], bool],
    ) -> None:
        """`trainer`: a ModulesTrainer."""
        self._trainer, self._prompts, self._folder = trainer, list(prompts), folder
        self._sink, self._stop_asked = sink, stop_asked
        examples = row_losses.hash_of(np.asarray([token for prompt in prompts for token in (*prompt.ids, 0)]))
        self._record = partial(row_losses.record, folder, examples=examples, tokens=np.ones(len(self._prompts)))

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0:
            self._measure(0)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            self._measure(state.global_step)

    def _measure(self, step: int) -> None:
        if not self._prompts or self._stop_asked():
            return
        if problem := problem_of(lambda: self._answer_and_score(step)):
            self._prompts = []
            self._sink("log", text=f"The answers to held-out prompts are not scored: {problem}")

    def _answer_and_score(self, step: int) -> None:
        began = time.monotonic()
        with heartbeat.phase(heartbeat.SAMPLING):
            answers = self._answers()
        if not self._stop_asked():  # else the answers are incomplete
            self._score(step, answers, time.monotonic() - began)

    def _answers(self) -> list[str]:
        found: list[str] = []
        for start in range(0, len(self._prompts), BATCH):
            part = self._prompts[start : start + BATCH]
            tokenizer = self._trainer.processing_class
            found += [readable(ids, tokenizer) for ids, _ in answer(self._trainer, part, self._stop_asked)]
        return found

    def _score(self, step: int, answers: Sequence[str], seconds: float) -> None:
        pairs = [
            (_plain(text), _plain(prompt.reference)) for text, prompt in zip(answers, self._prompts, strict=True)
        ]
        wrong = {
            row_losses.EXACT_MATCH: [text != wanted for text, wanted in pairs],
            row_losses.CONTAINS: [wanted not in text for text, wanted in pairs],
        }
        for name, misses in wrong.items():
            self._record(name=name, step=step, losses=np.asarray(misses, dtype=float))
        right = {name: percent(1 - sum(misses) / len(misses)) for name, misses in wrong.items()}
        when = f"after step {step:,}" if step else "before training"
        self._sink(
            "log",
            text=f"Answers to {len(pairs)} held-out prompts, {when}: {right[row_losses.EXACT_MATCH]} match exactly, "
            f"{right[row_losses.CONTAINS]} contain the reference ({duration(seconds)})",
        )


def _plain(text: str) -> str:
    """Without case, surplus spaces, and punctuation around it."""
    return " ".join(text.casefold().split()).strip(string.punctuation + " ")
