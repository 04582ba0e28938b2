"""Compares runs: figures, differences between configurations, which one is better and at what cost."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import mean, median, stdev
from typing import Any

import numpy as np

from trainer.common import formatting
from trainer.common.errors import UserError
from trainer.config.differences import differences
from trainer.config.schema import RunConfig
from trainer.experiments.experiment_file import Experiment
from trainer.experiments.statistics import Pair, all_pairs, pareto, verdict
from trainer.export.adapter_zip import WEIGHTS
from trainer.runs.history import ENDED
from trainer.runs.run import Run
from trainer.runs.store import RunStore

MAX_COMPARED = 200
PRICES = {"trainable": "Trainable parameters", "memory": "Peak memory", "elapsed": "Time"}
COLUMNS = {
    "eval_loss": "Final eval loss",
    "best_eval_loss": "Best eval loss",
    "perplexity": "Perplexity",
    "trainable": "Trainable",
    "adapter_bytes": "Adapter, bytes",
    "memory": "Peak memory, bytes",
    "tokens_per_second": "Tokens/s",
    "elapsed": "Time, s",
}
"""The table's figures, in order."""
SPREAD = ("eval_loss", "best_eval_loss", "perplexity")
"""Figures whose standard deviation over the seeds is shown."""


def shown(key: str, value: float | None) -> str:
    """The value of one of COLUMNS, formatted."""
    if key in ("adapter_bytes", "memory"):
        return formatting.size(value)
    if key in ("trainable", "tokens_per_second"):
        return formatting.count(value)
    if key == "elapsed":
        return formatting.duration(value)
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


@dataclass(frozen=True)
class Group:
    """Runs that differ only in the seed."""

    name: str
    rows: tuple[Row, ...]

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
        return {"name": self.name, "runs": [row.id for row in self.rows], "finished": len(self.finished), **figures}


@dataclass(frozen=True)
class Comparison:
    """The comparison of some runs."""

    groups: tuple[Group, ...]
    differences: dict[str, list[str]] = field(default_factory=dict)
    """Setting -> its value in every group; only settings that differ."""
    pairs: tuple[Pair, ...] = ()
    verdict: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def rows(self) -> list[Row]:
        return [row for group in self.groups for row in group.rows]

    def front(self, price: str) -> list[str]:
        """The Pareto front of `price` (one of PRICES) and loss: group names, cheapest first."""
        points = {
            group.name: (cost, loss)
            for group in self.groups
            if (cost := group.mean(price)) is not None and (loss := group.mean("eval_loss")) is not None
        }
        return pareto(points)

    def to_json(self) -> dict[str, Any]:
        return {
            "runs": [asdict(row) for row in self.rows],
            "groups": [group.to_json() for group in self.groups],
            "differences": self.differences,
            "pairs": [pair.to_json() for pair in self.pairs],
            "verdict": list(self.verdict),
            "warnings": list(self.warnings),
            "pareto": {price: self.front(price) for price in PRICES},
        }

    def to_csv(self) -> str:
        """The table, one run per line. Spreadsheets cannot mistake a text for a formula."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["Run", "Scenario", "Seed", "State", "Steps", *COLUMNS.values(), "Id"])
        for row in self.rows:
            figures = [getattr(row, key) for key in COLUMNS]
            values = [row.title, row.group, row.seed, row.state, row.step, *figures, row.id]
            writer.writerow(["" if value is None else _cell(value) for value in values])
        return file.getvalue()


def compare(store: RunStore, run_ids: Sequence[str], experiment: Experiment | None = None) -> Comparison:
    """Compare runs, in the given order. `experiment`: they are its runs, and missing ones only cause a warning.

    Raises UserError for unknown ids, or more than MAX_COMPARED of them.
    """
    if len(run_ids) > MAX_COMPARED:
        raise UserError(f"{len(run_ids)} runs are too many.", f"Choose at most {MAX_COMPARED}.", "data")
    runs, warnings = [], []
    for run_id in dict.fromkeys(run_ids):
        try:
            run = store.get(run_id)
        except UserError:
            if experiment is None:
                raise
            continue
        if run.config is None:
            warnings.append(f"{run.title}: {run.problem}")
        else:
            runs.append(run)
    if experiment is not None and len(runs) + len(warnings) < len(experiment.members):
        warnings.append(f"{len(experiment.members) - len(runs)} of its runs are missing. Resume creates them.")
    groups, configs = _grouped(runs, experiment)
    warnings += _warnings(groups, configs)
    losses = {group.name: group.losses for group in groups}
    return Comparison(
        tuple(groups),
        differences(configs, [sorted({row.seed for row in group.rows}) for group in groups]),
        tuple(all_pairs(losses)),
        tuple(verdict(losses, {group.name: group.rows[0].trainable for group in groups})),
        tuple(warnings),
    )


def row_of(run: Run, group: str) -> Row:
    """A run's row in the table."""
    assert run.config is not None
    summary, latest = run.summary(), run.history.latest
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
        trainable=summary["trainable"],
        adapter_bytes=_adapter_bytes(run) or summary["adapter_bytes"],
        memory=summary["memory_measured"],
        tokens_per_second=median(map(float, speeds)) if len(speeds) else None,
        elapsed=summary["elapsed"],
        unchanged=run.history.unchanged,
    )


def _grouped(runs: list[Run], experiment: Experiment | None) -> tuple[list[Group], list[RunConfig]]:
    """Groups of runs that differ only in seed and title, and the configuration of each group's first run."""
    names: dict[str, str] = {}
    rows: dict[str, list[Row]] = {}
    configs: dict[str, RunConfig] = {}
    titles = {item["key"]: item["title"] for item in experiment.scenarios} if experiment else {}
    scenario_of = {member.run: titles[member.scenario] for member in experiment.members} if experiment else {}
    for run in runs:
        assert run.config is not None
        plain = replace(run.config, title="", training=replace(run.config.training, seed=0))
        key = json.dumps(plain.to_json(), sort_keys=True)
        if key not in names:
            title = scenario_of.get(run.id) or re.sub(r" · seed \d+$", "", run.title)
            names[key] = _unique(str(title), set(names.values()))
            configs[key] = run.config
        rows.setdefault(key, []).append(row_of(run, names[key]))
    return [Group(names[key], tuple(rows[key])) for key in names], list(configs.values())


def _unique(name: str, taken: set[str]) -> str:
    """`name`, with a number if it is already taken."""
    number, unique = 2, name
    while unique in taken:
        number, unique = number + 1, f"{name} ({number})"
    return unique


def _warnings(groups: list[Group], configs: list[RunConfig]) -> list[str]:
    """What limits the comparison of these losses."""
    warnings = []
    unfinished = [row for group in groups for row in group.rows if row.state != "finished"]
    for title, rows in (
        ("Still running", [row for row in unfinished if row.state not in ENDED]),
        ("Did not finish", [row for row in unfinished if row.state in ENDED]),
    ):
        if rows:
            names = ", ".join(f"{row.title} ({row.state})" for row in rows[:6])
            more = f" and {len(rows) - 6} more" if len(rows) > 6 else ""
            warnings.append(f"{title} (not in the verdict): {names}{more}.")
    unchanged = [row.title for group in groups for row in group.rows if row.unchanged]
    if unchanged:
        warnings.append(
            f"Training left these adapters unchanged, so they have the base model's loss: {', '.join(unchanged[:6])}."
        )
    without_eval = [row.title for group in groups for row in group.finished if row.eval_loss is None]
    if without_eval:
        warnings.append(f"No eval loss, because no examples were held out: {', '.join(without_eval[:6])}.")
    parts = {"the model": "model.name", "the data": "data", "the length": "training.max_length"}
    for title, path in parts.items():
        values = {json.dumps(_at(config.to_json(), path), sort_keys=True) for config in configs}
        if len(values) > 1:
            warnings.append(f"{title.capitalize()} differs between these runs: their eval losses are not comparable.")
    steps = {row.step for group in groups for row in group.finished}
    if len(steps) > 1:
        warnings.append(f"These runs trained for different numbers of steps: {', '.join(map(str, sorted(steps)))}.")
    return warnings


def _at(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value[key]
    return value


def _adapter_bytes(run: Run) -> int | None:
    try:
        return (run.adapter / WEIGHTS).stat().st_size
    except OSError:
        return None


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
