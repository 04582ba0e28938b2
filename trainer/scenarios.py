"""Named sets of ticks. The six of the reference study are built in."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config import Tick, Treatment

SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Scenario:
    """A set of ticks with a name and a sentence about it."""

    key: str
    title: str
    note: str
    modules: tuple[Tick, ...]


def _ticks(names: tuple[str, ...], treatment: Treatment = "lora") -> tuple[Tick, ...]:
    return tuple(Tick(name, treatment) for name in names)


LORA = _ticks(SEVEN)
HEAD = _ticks(("lm_head",), "full")
EMBEDDING = _ticks(("embed_tokens",), "full")
FC = _ticks(("fc1", "fc2"))

SIX = (
    Scenario("1", "1 · LoRA + head", "LoRA on attention and MLP, the head in full.", LORA + HEAD),
    Scenario("2", "2 · LoRA + embedding", "LoRA on attention and MLP, the embedding in full.", LORA + EMBEDDING),
    Scenario(
        "3",
        "3 · LoRA + embedding + head",
        "LoRA on attention and MLP, embedding and head in full: the best in the reference study.",
        LORA + EMBEDDING + HEAD,
    ),
    Scenario("4", "4 · as 3, also fc1, fc2", "As 3, with LoRA on fc1 and fc2 too.", LORA + FC + EMBEDDING + HEAD),
    Scenario("5", "5 · LoRA only", "LoRA on attention and MLP: the smallest adapter.", LORA),
    Scenario("6", "6 · as 5, also fc1, fc2", "As 5, with LoRA on fc1 and fc2 too.", LORA + FC),
)


def title_of(ticks: tuple[Tick, ...]) -> str:
    """The title of the built-in scenario that these ticks are; empty where they are none."""
    return next((item.title for item in SIX if set(item.modules) == set(ticks)), "")


def scenario(key: str) -> Scenario:
    """The built-in scenario `key` ("1" to "6"). Raises KeyError where there is none."""
    return next(item for item in SIX if item.key == key)
