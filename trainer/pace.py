"""How fast a model trains on this machine, as earlier runs of it showed, and how long a run will take at that."""

from __future__ import annotations

from typing import Any

from trainer.runs import RunStore


def tokens_per_second(store: RunStore, model: str) -> float | None:
    """Of the newest run of this model that trained long enough to tell; None where there is none."""
    for row in store.summaries():
        if row["model"] == model and row.get("tokens") and row["elapsed"]:
            return float(row["tokens"]) / float(row["elapsed"])
    return None


def with_pace(report: dict[str, Any], pace: float | None) -> dict[str, Any]:
    """The report of data with the seconds that its training takes; None where no run has shown a pace."""
    training = report["training"]
    if training is None:
        return report
    seconds = training["tokens"] / pace if pace else None
    return report | {"training": training | {"tokens_per_second": pace, "seconds": seconds}}
