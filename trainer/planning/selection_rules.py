"""What is known by rule about a selection, before anything trains: instant, and no more than a rule.

The plan's own warnings on coverage, few layers, recurrent mixers, new tokens and short runs are rules, too; here are
those that compare the size of the adapter with the data, and the batch with what LoRA bears.
"""

from __future__ import annotations

from collections.abc import Iterator

from trainer.common.formatting import count
from trainer.config.schema import RunConfig
from trainer.planning.plan import Plan
from trainer.planning.schedule import Size, batch_size

BITS_PER_PARAMETER = 2.0
"""What a trainable parameter can store (Allen-Zhu and Li, arXiv:2404.05405)."""
BITS_PER_TOKEN = 1.0
"""What a token has to teach: about the loss of a language model, as “LoRA Without Regret” counts."""
LARGEST_BATCH = 32
"""Above it, LoRA loses more to a large batch than full fine-tuning does, at any rank (“LoRA Without Regret”)."""


def rules(config: RunConfig, plan: Plan, size: Size) -> list[str]:
    """Sentences that apply to `config`. `size`: of its training data, where it is known."""
    return [*(f"{warning.problem} {warning.fix}".strip() for warning in plan.warnings), *_rules(config, plan, size)]


def _rules(config: RunConfig, plan: Plan, size: Size) -> Iterator[str]:
    if not any(target.treatment == "lora" for target in plan.targets):
        return
    tokens, batch = size.examples * size.length, batch_size(config.training)
    stored, wanted = plan.trainable * BITS_PER_PARAMETER, tokens * BITS_PER_TOKEN
    if stored < wanted:
        yield (
            f"The data have {count(tokens)} tokens, up to about {count(wanted)} bits to learn; "
            f"{count(plan.trainable)} trainable parameters hold about {count(stored)}. Raise r (“LoRA Without "
            "Regret”, Thinking Machines 2025)."
        )
    if batch > LARGEST_BATCH:
        yield (
            f"A batch of {batch} is more than LoRA bears well: it loses more to batches above {LARGEST_BATCH} than "
            "full fine-tuning does (“LoRA Without Regret”, Thinking Machines 2025)."
        )
