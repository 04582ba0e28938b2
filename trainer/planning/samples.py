"""What answering sample prompts costs: how many tokens at most, in how many evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from trainer.config.schema import RunConfig
from trainer.planning.schedule import EVALS

MAX_PROMPT = 2048
"""Tokens of a prompt. Longer ones are not answered: their attention would need more memory than the training."""
MAX_TOKENS, MIN_TOKENS = 128, 16
"""Tokens of an answer: never more, and never stopped earlier."""
REFERENCE_FACTOR = 2
"""Answers may be this many times as long as the longest reference answer."""


@dataclass(frozen=True)
class SampleCost:
    """The largest number of prompts, evaluations and generated tokens of a run."""

    prompts: int
    evaluations: int
    """The one before the first step included."""

    @property
    def tokens(self) -> int:
        return self.prompts * self.evaluations * MAX_TOKENS

    def sentence(self) -> str:
        """Empty if there are no samples."""
        if not self.prompts:
            return ""
        prompts = "one held-out prompt" if self.prompts == 1 else f"{self.prompts} held-out prompts"
        return f"Samples: {prompts} × up to {self.evaluations:,} evaluations, at most {self.tokens:,} tokens"

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"tokens": self.tokens}


def sample_cost(config: RunConfig, steps: int) -> SampleCost:
    """The cost of a run of `steps` steps; 0 if they are not known yet."""
    training, data = config.training, config.data
    if not (data.eval_fraction or data.held_out or data.source == "demo"):
        return SampleCost(0, 0)
    evaluations = ceil(steps / training.eval_steps) if training.eval_steps else min(EVALS, steps or EVALS)
    return SampleCost(training.samples, 1 + max(1, evaluations))


def answer_limit(reference_tokens: Sequence[int]) -> int:
    """Tokens that an answer may have, from those of the reference answers."""
    return min(MAX_TOKENS, max(MIN_TOKENS, REFERENCE_FACTOR * max(reference_tokens, default=0)))
