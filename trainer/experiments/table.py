"""The figures of runs side by side: one row per run, one group per scenario, one rung per learning rate."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev
from typing import Any

import numpy as np

from trainer.common import formatting
from trainer.experiments.rate_ladder import Rung, edges
from trainer.export.adapter_zip import WEIGHTS
from trainer.runs import row_losses
from trainer.runs.row_losses import RowLosses
from trainer.runs.run import Run

PRICES = {"trainable": "Trainable parameters", "memory": "Peak memory", "elapsed": "Time"}
COLUMNS = {
    "eval_loss": "Final eval loss",
    "best_eval_loss": "Best eval loss",
    "perplexity": "Perplexity",
    "exact_match": "Exact match",
    "contains": "Contains",
    "forgetting": "Forgetting",
    "trainable": "Trainable",
    "adapter_bytes": "Adapter, bytes",
    "memory": "Peak memory, bytes",
    "tokens_per_second": "Tokens/s",
    "elapsed": "Time, s",
}
"""The table's figures, in order."""
SCORES = {"exact_match": "exact match", "contains": "answers that contain the reference"}
"""Task scores, and how a sentence names them."""
OPTIONAL = (*SCORES, "forgetting")
"""Figures that not every comparison has: columns of nothing else are left out."""
SPREAD = ("eval_loss", *OPTIONAL)
"""Figures whose standard deviation over the seeds is shown."""


def shown_spread(key: str, value: float) -> str:
    """The standard deviation of one of SPREAD, formatted."""
    return shown(key, value).removeprefix("+")


def shown(key: str, value: float | None) -> str:
    """The value of one of COLUMNS, formatted."""
    if key in ("adapter_bytes", "memory"):
        return formatting.size(value)
    if key in ("trainable", "tokens_per_second"):
        return formatting.count(value)
    if key == "elapsed":
        return formatting.duration(value)
    if key in SCORES and value is not None:
        return f"{100 * value:.1f} %"
    if key == "forgetting" and value is not None:
        return f"{value:+.{formatting.LOSS_DECIMALS}f}"
    return formatting.decimals(value) if key == "perplexity" else formatting.loss(value)


@dataclass(frozen=True)
class Row:
    """One run in the table."""

    id: str
    title: str
    group: str
    """Name of the group of runs that differ only in the seed."""
    seed: int
    state: str
    step: int
    eval_loss: float | None
    """After the last step, so that of the saved adapter."""
    best_eval_loss: float | None
    perplexity: float | None
    exact_match: float | None
    """Share of held-out prompts whose answer equals the reference."""
    contains: float | None
    """Share of held-out prompts whose answer contains the reference."""
    forgetting: float | None
    """How much the loss on general text rose; below 0, it fell."""
    trainable: int | None
    adapter_bytes: int | None
    """Of the saved file; as planned before one exists."""
    memory: int | None
    tokens_per_second: float | None
    """Median over the steps."""
    elapsed: float
    """Seconds of training, including evals."""
    unchanged: bool = False
    """Whether training left the adapter unchanged."""
    learning_rate: float = 0.0
    """Of LoRA, at its peak."""


@dataclass(frozen=True)
class RungRows:
    """The runs of a scenario at one rung of its learning-rate ladder."""

    rung: Rung
    rows: tuple[Row, ...]

    @property
    def losses(self) -> list[float]:
        """Final eval losses of its finished runs."""
        return [row.eval_loss for row in self.rows if row.state == "finished" and row.eval_loss is not None]


@dataclass(frozen=True)
class Group:
    """Runs that differ only in the seed; of a ladder, those at the best learning rates."""

    name: str
    rows: tuple[Row, ...]
    ladder: tuple[RungRows, ...] = ()
    """All rungs, these included; none if only one was tried."""

    @property
    def all_rows(self) -> list[Row]:
        return [row for rung in self.ladder for row in rung.rows] if self.ladder else list(self.rows)

    @property
    def complete(self) -> bool:
        """Whether all its runs finished, at every rate."""
        return all(row.state == "finished" for row in self.all_rows)

    @property
    def edges(self) -> list[str]:
        """Which of its rates are the lowest or highest that was tried, in words."""
        return edges([rung.rung for rung in self.ladder], self.best) if self.ladder else []

    @property
    def label(self) -> str:
        """Its name, with the rates that it was best at."""
        return f"{self.name} · {self.best.name}" if self.ladder and self.losses else self.name

    @property
    def best(self) -> Rung:
        """The rung of its rows."""
        return next((rung.rung for rung in self.ladder if rung.rows == self.rows), Rung())

    def mean(self, key: str) -> float | None:
        """Mean of a figure over the finished runs; None if none has it."""
        values = self._values(key)
        return mean(values) if values else None

    def spread(self, key: str) -> float | None:
        """Standard deviation of a figure over the finished runs; None for fewer than two."""
        values = self._values(key)
        return stdev(values) if len(values) > 1 else None

    def _values(self, key: str) -> list[float]:
        return [float(value) for row in self.finished if (value := getattr(row, key)) is not None]

    @property
    def finished(self) -> list[Row]:
        return [row for row in self.rows if row.state == "finished"]

    @property
    def losses(self) -> dict[int, float]:
        """Final eval loss of the finished runs, by seed."""
        return {row.seed: row.eval_loss for row in self.finished if row.eval_loss is not None}

    def to_json(self) -> dict[str, Any]:
        figures = {key: {"mean": self.mean(key), "spread": self.spread(key)} for key in COLUMNS}
        ladder = [
            {
                "lora": rung.rung.lora,
                "full": rung.rung.full,
                "runs": [row.id for row in rung.rows],
                "eval_loss": mean(rung.losses) if rung.losses else None,
            }
            for rung in self.ladder
        ]
        return {
            "name": self.name,
            "runs": [row.id for row in self.rows],
            "finished": len(self.finished),
            "ladder": ladder,
            "edges": self.edges,
            **figures,
        }


def best_rung(name: str, ladder: Sequence[RungRows]) -> Group:
    """The group of a scenario: of the rungs with the most finished runs, the one with the lowest mean loss."""
    most = max(len(rung.losses) for rung in ladder)
    full = [rung for rung in ladder if len(rung.losses) == most]
    best = min(full, key=lambda rung: mean(rung.losses)) if most else ladder[0]
    return Group(name, best.rows, tuple(ladder) if len(ladder) > 1 else ())


def row_of(run: Run, group: str) -> Row:
    """A run's row in the table."""
    assert run.config is not None
    summary, latest = run.summary(), run.history.latest
    known = row_losses.read(run.folder)
    general = known.get(row_losses.GENERAL)
    speeds = run.history.train.curve("tokens_per_second")[1]
    speeds = speeds[np.isfinite(speeds)]
    return Row(
        id=run.id,
        title=run.title,
        group=group,
        seed=run.config.training.seed,
        state=summary["state"],
        step=summary["step"],
        eval_loss=summary["eval_loss"],
        best_eval_loss=summary["best_eval_loss"],
        perplexity=latest.get("perplexity"),
        exact_match=_share_right(known.get(row_losses.EXACT_MATCH)),
        contains=_share_right(known.get(row_losses.CONTAINS)),
        forgetting=general.rise if general is not None else None,
        trainable=summary["trainable"],
        adapter_bytes=_adapter_bytes(run) or summary["adapter_bytes"],
        memory=summary["memory_measured"],
        tokens_per_second=median(map(float, speeds)) if len(speeds) else None,
        elapsed=summary["elapsed"],
        unchanged=run.history.unchanged,
        learning_rate=run.config.training.learning_rate,
    )


def to_csv(rows: Sequence[Row]) -> str:
    """The table, one run per line. Spreadsheets cannot mistake a text for a formula."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["Run", "Scenario", "Seed", "State", "Steps", "Learning rate", *COLUMNS.values(), "Id"])
    for row in rows:
        figures = [getattr(row, key) for key in COLUMNS]
        values = [row.title, row.group, row.seed, row.state, row.step, row.learning_rate, *figures, row.id]
        writer.writerow(["" if value is None else _cell(value) for value in values])
    return file.getvalue()


def columns(groups: Sequence[Group]) -> dict[str, str]:
    """COLUMNS without those that no run has."""
    rows = [row for group in groups for row in group.all_rows]
    return {
        key: title
        for key, title in COLUMNS.items()
        if key not in OPTIONAL or any(getattr(row, key) is not None for row in rows)
    }


def _share_right(found: RowLosses | None) -> float | None:
    wrong = found.mean if found is not None else None
    return None if wrong is None else 1 - wrong


def _adapter_bytes(run: Run) -> int | None:
    try:
        return (run.adapter / WEIGHTS).stat().st_size
    except OSError:
        return None


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
