"""Compares runs: figures, differences between configurations, which one is better and at what cost."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from trainer.common.errors import UserError
from trainer.config.differences import differences
from trainer.config.schema import RunConfig
from trainer.experiments.experiment_file import Experiment
from trainer.experiments.rate_ladder import Rung
from trainer.experiments.statistics import Pair, Results, all_pairs, pareto
from trainer.experiments.table import PRICES, SCORES, Group, Row, RungRows, best_rung, columns, row_of, to_csv
from trainer.experiments.verdict import DEFAULT, Criteria, forgetting_notes, ladder_notes, score_notes, verdict
from trainer.runs import row_losses
from trainer.runs.history import ENDED
from trainer.runs.run import Run
from trainer.runs.store import RunStore

MAX_COMPARED = 200


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
        """All runs, those at other learning rates included."""
        return [row for group in self.groups for row in group.all_rows]

    @property
    def columns(self) -> dict[str, str]:
        """The figures of its table, with their titles."""
        return columns(self.groups)

    @property
    def answer(self) -> tuple[str, ...]:
        """The verdict's first two sentences."""
        return self.verdict[:2]

    @property
    def evidence(self) -> tuple[str, ...]:
        """The rest of the verdict."""
        return self.verdict[2:]

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
        return to_csv(self.rows)


def compare(
    store: RunStore, run_ids: Sequence[str], experiment: Experiment | None = None, criteria: Criteria = DEFAULT
) -> Comparison:
    """Compare runs, in the given order. `experiment`: they are its runs, and missing ones only cause a warning.

    Raises UserError for unknown ids, or more than MAX_COMPARED of them.
    """
    runs, warnings = _found(store, run_ids, experiment)
    members = {member.run: member for member in experiment.members} if experiment is not None else {}
    missing = len(members) - len(runs) - len(warnings)
    if missing > 0:
        warnings.append(f"{missing} of its runs are missing. Resume creates them.")
    groups, configs = _scenarios(runs, experiment) if experiment is not None else _alike(runs)
    found = Comparison(
        tuple(groups), differences(configs, [sorted({row.seed for row in group.rows}) for group in groups])
    )
    judged = [config for group, config in zip(groups, configs, strict=True) if group.losses]
    warnings += [*_warnings(groups), *_incomparable(configs)]
    if _incomparable(judged):
        return replace(found, warnings=tuple(warnings))
    results = {group.name: _results(store, group, missing <= 0, row_losses.HELD_OUT) for group in groups}
    pairs = all_pairs(results, criteria.margin)
    costs = {group.name: group.mean(criteria.cost) for group in groups}
    said = [*verdict(results, pairs, costs, criteria), *ladder_notes(groups), *forgetting_notes(groups)]
    for name, title in SCORES.items():
        said += score_notes(title, {group.name: _results(store, group, missing <= 0, name) for group in groups})
    return replace(found, pairs=tuple(pairs), verdict=tuple(said), warnings=tuple(warnings))


def _found(store: RunStore, run_ids: Sequence[str], experiment: Experiment | None) -> tuple[list[Run], list[str]]:
    """The runs that can be read, and what is wrong with the others."""
    if len(run_ids) > MAX_COMPARED:
        raise UserError(f"{len(run_ids)} runs are too many.", f"Choose at most {MAX_COMPARED}.", "data")
    runs, problems = [], []
    for run_id in dict.fromkeys(run_ids):
        try:
            run = store.get(run_id)
        except UserError:
            if experiment is None:
                raise
            continue
        if run.config is None:
            problems.append(f"{run.title}: {run.problem}")
        else:
            runs.append(run)
    return runs, problems


def _results(store: RunStore, group: Group, all_there: bool, name: str) -> Results:
    """A scenario's held-out losses, or with the name of a task score, its shares of wrong answers."""
    finished = [row for row in group.finished if row.eval_loss is not None]
    read = {row.seed: row_losses.read(store.folder / row.id).get(name) for row in finished}
    # losses of an evaluation before the last step are not those of the adapter
    rows = {row.seed: found for row in finished if (found := read[row.seed]) is not None and found.step == row.step}
    losses = {seed: loss for seed, found in rows.items() if (loss := found.mean) is not None}
    return Results(group.losses if name == row_losses.HELD_OUT else losses, rows, group.complete and all_there)


def _scenarios(runs: list[Run], experiment: Experiment) -> tuple[list[Group], list[RunConfig]]:
    """The groups of an experiment, and the configuration of each group's first run."""
    titles = {item["key"]: str(item["title"]) for item in experiment.scenarios}
    members = {member.run: member for member in experiment.members}
    names: dict[str, str] = {}
    rows: dict[str, dict[Rung, list[Row]]] = {}
    for run in runs:
        member = members[run.id]
        if member.scenario not in names:
            names[member.scenario] = _unique(titles[member.scenario], set(names.values()))
        ladder = rows.setdefault(member.scenario, {})
        ladder.setdefault(member.rung, []).append(row_of(run, names[member.scenario]))
    groups = [
        best_rung(names[key], [RungRows(rung, tuple(own)) for rung, own in ladder.items()])
        for key, ladder in rows.items()
    ]
    configs = {run.id: run.config for run in runs}
    return groups, [config for group in groups if (config := configs[group.rows[0].id]) is not None]


def _alike(runs: list[Run]) -> tuple[list[Group], list[RunConfig]]:
    """Groups of runs that differ only in seed and title, and the configuration of each group's first run."""
    names: dict[str, str] = {}
    rows: dict[str, list[Row]] = {}
    configs: dict[str, RunConfig] = {}
    for run in runs:
        assert run.config is not None
        plain = replace(run.config, title="", training=replace(run.config.training, seed=0))
        key = json.dumps(plain.to_json(), sort_keys=True)
        if key not in names:
            names[key] = _unique(re.sub(r" · seed \d+$", "", run.title), set(names.values()))
            configs[key] = run.config
        rows.setdefault(key, []).append(row_of(run, names[key]))
    return [Group(names[key], tuple(rows[key])) for key in names], list(configs.values())


def _unique(name: str, taken: set[str]) -> str:
    """`name`, with a number if it is already taken."""
    number, unique = 2, name
    while unique in taken:
        number, unique = number + 1, f"{name} ({number})"
    return unique


def _warnings(groups: list[Group]) -> list[str]:
    """What limits the comparison of these losses."""
    warnings = []
    every = [row for group in groups for row in group.all_rows]
    unfinished = [row for row in every if row.state != "finished"]
    for title, rows in (
        ("Still running", [row for row in unfinished if row.state not in ENDED]),
        ("Did not finish", [row for row in unfinished if row.state in ENDED]),
    ):
        if rows:
            names = ", ".join(f"{row.title} ({row.state})" for row in rows[:6])
            more = f" and {len(rows) - 6} more" if len(rows) > 6 else ""
            warnings.append(f"{title} (not in the verdict): {names}{more}.")
    unchanged = [row.title for row in every if row.unchanged]
    if unchanged:
        warnings.append(
            f"Training left these adapters unchanged, so they have the base model's loss: {', '.join(unchanged[:6])}."
        )
    without_eval = [row.title for group in groups for row in group.finished if row.eval_loss is None]
    if without_eval:
        warnings.append(f"No eval loss, because no examples were held out: {', '.join(without_eval[:6])}.")
    steps = {row.step for group in groups for row in group.finished}
    if len(steps) > 1:
        warnings.append(f"These runs trained for different numbers of steps: {', '.join(map(str, sorted(steps)))}.")
    return warnings


def _incomparable(configs: Sequence[RunConfig]) -> list[str]:
    """Why the losses of these configurations cannot be compared."""
    found = []
    parts = {"the model": "model.name", "the data": "data", "the length": "training.max_length"}
    for title, path in parts.items():
        values = {json.dumps(_at(config.to_json(), path), sort_keys=True) for config in configs}
        if len(values) > 1:
            found.append(f"{title.capitalize()} differs between these runs: their eval losses are not comparable.")
    return found


def _at(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value[key]
    return value
