"""How much memory runs on a card needed, compared with what had been computed: read from the run folders."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from statistics import median

from trainer.common.errors import UserError
from trainer.planning.memory.correction import OVERHEAD, MemoryCorrection
from trainer.runs import plan_file
from trainer.runs.store import RunStore

MAX_RUNS = 20
"""Number of measured runs to consider, the newest ones: older versions computed differently."""
MAX_FOLDERS = 200
"""Number of newest run folders to look at."""
MIN_STEPS = 5
"""Runs with fewer steps are ignored: their largest batch may not have come."""


def memory_correction(store: RunStore, card: str) -> MemoryCorrection:
    """What the newest runs on a GPU of this name needed, relative to what was computed.

    `card`: empty without a GPU, where the measured peak is another quantity, so nothing is corrected.
    """
    ratios: list[float] = []
    for run_id in store.ids()[:MAX_FOLDERS] if card else ():
        try:
            history = store.get(run_id).history
        except UserError:  # deleted in the meantime
            continue
        measured = history.latest.get("memory", 0.0)
        if history.step >= MIN_STEPS and measured > 0:
            name, computed = _planned(store.folder / run_id)
            ratios += [measured / computed] if name == card and computed else []
        if len(ratios) == MAX_RUNS:
            break
    return MemoryCorrection(median(ratios), len(ratios), card) if ratios else MemoryCorrection(card=card)


@lru_cache(maxsize=512)
def _planned(folder: Path) -> tuple[str, int]:
    """The card of a run, and the bytes that torch would allocate, as computed without a correction.

    plan.json is final before the first step, so it is read once.
    """
    try:
        plan, _ = plan_file.read(folder)
        card = plan["device_memory"].get("model") or ""
        return str(card), int(plan["memory_predicted"]) - int(plan["memory"].get(OVERHEAD, 0))
    except (KeyError, TypeError):
        return "", 0
