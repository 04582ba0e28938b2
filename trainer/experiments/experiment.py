"""Experiments: scenarios × seeds under one name, as runs that differ in nothing else.

experiments/<id>.json below the runs folder says which runs belong to it; the runs are plain runs, queued, stopped
and resumed like any other. Their ids are written before their folders: if that is interrupted, `resume` creates the
rest.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer.common import atomic, file_locks
from trainer.common.disk import write_failed
from trainer.common.environment import machine
from trainer.common.errors import InvalidConfig, UserError
from trainer.config import validation
from trainer.experiments.experiment_file import MAX_RUNS, Experiment, Member, read
from trainer.experiments.rate_ladder import SINGLE, ladder
from trainer.experiments.scenario_plans import Planner, ScenarioPlan
from trainer.runs import duration_estimates, lifecycle
from trainer.runs.history import ACTIVE
from trainer.runs.run import MAX_TITLE, Run
from trainer.runs.store import RunStore, new_id

FOLDER = "experiments"
ID = re.compile(r"exp-\d{8}-\d{6}-[0-9a-f]{6}")
MAX_SEEDS = 20
GONE = "not made"
"""State of a member whose run folder does not exist."""
OPEN = ("queued", *ACTIVE)
_QUEUING = threading.Lock()


@dataclass(frozen=True)
class Draft:
    """What an experiment is to be, besides its scenarios."""

    name: str
    question: str
    seeds: int = 1
    """Runs of each scenario at each rate."""
    rates: tuple[float, ...] = SINGLE
    """Factors of the configured learning rates."""
    equal_budget: bool = False


class Experiments:
    """All experiments over one store of runs."""

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self._folder = store.folder / FOLDER

    def create(self, draft: Draft, plans: Sequence[ScenarioPlan], plan: Planner) -> Experiment:
        """Create an experiment and queue all its runs. Raises UserError if none of them can run."""
        experiment = _make(draft, plans)
        issues = [issue for member in experiment.members for issue in validation.validate(experiment.config(member))]
        if issues:
            raise InvalidConfig(list(dict.fromkeys(issues)))
        self._write(experiment)
        with self._alone(experiment.id):
            self._queue(experiment, plan)
        return experiment

    def ids(self) -> list[str]:
        """Ids of all experiments, newest first."""
        return sorted((path.stem for path in self._folder.glob("*.json") if ID.fullmatch(path.stem)), reverse=True)

    def get(self, experiment_id: str) -> Experiment:
        """Raises UserError if there is no experiment with this id, or its file is damaged."""
        path = self._folder / f"{experiment_id}.json"
        if not ID.fullmatch(experiment_id) or not os.path.lexists(path):
            raise UserError(f"There is no experiment {experiment_id[:60]!r}.", "Choose one from the list.", "data")
        return read(path)

    def all(self) -> list[Experiment]:
        """All experiments that can be read, newest first."""
        experiments = []
        for experiment_id in self.ids():
            try:
                experiments.append(self.get(experiment_id))
            except UserError:
                continue  # `get` says what is wrong with it
        return experiments

    def summaries(self) -> list[dict[str, Any]]:
        """The summaries of all experiments, newest first; one whose file is damaged has its reason as `message`."""
        rows = []
        for experiment_id in self.ids():
            try:
                rows.append(self.summary(self.get(experiment_id)))
            except UserError as error:
                rows.append(_damaged(experiment_id, str(error)))
        return rows

    def states(self, experiment: Experiment) -> list[str]:
        """The state of every member's run, in member order."""
        rows = (self.store.summary(run_id) for run_id in experiment.runs)
        return [str(row["state"]) if row else GONE for row in rows]

    def summary(self, experiment: Experiment) -> dict[str, Any]:
        """A row for lists: progress, and the estimated seconds left (None if unknown)."""
        states = self.states(experiment)
        return {
            "id": experiment.id,
            "name": experiment.name,
            "question": experiment.question,
            "state": _state(states),
            "finished": states.count("finished"),
            "runs": len(states),
            "states": dict(Counter(states)),
            "remaining": self._remaining(experiment, states),
            "message": "",
        }

    def stop(self, experiment_id: str) -> str:
        """Stop all its runs, queued ones first; a second call kills them. Returns what was done."""
        done = 0
        for run in reversed(self._runs(self.get(experiment_id))):
            if run is not None and run.history.state in OPEN:
                lifecycle.stop_run(run)
                done += 1
        return f"Stopping {done} runs." if done else "None of its runs is queued or running."

    def resume(self, experiment_id: str, plan: Planner) -> str:
        """Queue again what did not finish, and create missing runs. Returns what was done."""
        valid_id = self.get(experiment_id).id  # checked before it is used as a file name
        with self._alone(valid_id):
            experiment = self._renewed(self.get(valid_id))
            return f"{self._queue(experiment, plan)} runs are queued again."

    def _renewed(self, experiment: Experiment) -> Experiment:
        """The experiment with new ids for missing runs: an id is never reused."""
        missing = {run_id for run_id in experiment.runs if self._try(run_id) is None}
        members = tuple(replace(m, run=new_id()) if m.run in missing else m for m in experiment.members)
        renewed = replace(experiment, members=members)
        if missing:
            self._write(renewed)
        return renewed

    def _write(self, experiment: Experiment) -> None:
        try:
            self._folder.mkdir(exist_ok=True)
            atomic.write_json(self._folder / f"{experiment.id}.json", experiment.to_json())
        except OSError as error:
            raise write_failed(error) from error

    def _queue(self, experiment: Experiment, plan: Planner) -> int:
        """Queue every run that is neither finished nor open, in member order."""
        queued = 0
        for member, run in zip(experiment.members, self._runs(experiment), strict=True):
            if run is None:
                config = experiment.config(member)
                self.store.create(config, plan(config), run_id=member.run)
            elif run.history.state in ("stopped", "failed", "interrupted"):
                lifecycle.resume_run(run)
            else:
                continue
            queued += 1
        return queued

    @contextlib.contextmanager
    def _alone(self, experiment_id: str) -> Iterator[None]:
        """One thread of one process at a time. Not `file_locks.turn`, which creating a run takes as well."""
        with _QUEUING:
            lock = file_locks.acquire(self._folder / f".{experiment_id}.lock", 10.0)
            if lock is None:
                raise UserError("Another program is queuing these runs.", "Try again in a moment.", "data")
            with lock:
                yield

    def _runs(self, experiment: Experiment) -> list[Run | None]:
        return [self._try(run_id) for run_id in experiment.runs]

    def _try(self, run_id: str) -> Run | None:
        try:
            return self.store.get(run_id)
        except UserError:
            return None  # deleted, or not made yet

    def _remaining(self, experiment: Experiment, states: list[str]) -> float | None:
        """Seconds that its open runs still need."""
        still_open = [member for member, state in zip(experiment.members, states, strict=True) if state in OPEN]
        if not still_open:
            return None
        paces = duration_estimates.paces(self.store, experiment.config(still_open[0]).model)
        left = duration_estimates.total([experiment.config(member) for member in still_open], paces)
        elapsed = sum(row["elapsed"] for member in still_open if (row := self.store.summary(member.run)))
        return None if left is None else max(left - elapsed, 0.0)


def _make(draft: Draft, plans: Sequence[ScenarioPlan]) -> Experiment:
    title = " ".join("".join(filter(str.isprintable, " ".join(draft.name.split()))).split())[:MAX_TITLE]
    if not title:
        raise UserError("The experiment has no name.", "Write one.", "data")
    if not 1 <= draft.seeds <= MAX_SEEDS:
        raise UserError(f"Seeds must be between 1 and {MAX_SEEDS}, not {draft.seeds}.", "", "data")
    chosen = [planned for planned in plans if planned.runs]
    if not chosen:
        problems = [
            f"{planned.scenario.title}: {issue.problem} {issue.fix}" for planned in plans for issue in planned.issues
        ]
        raise UserError("None of these scenarios can run.", " ".join(problems) or "Choose at least one.", "data")
    if (count := count_runs(plans, draft.seeds, draft.rates)) > MAX_RUNS:
        raise UserError(
            f"{count} runs are too many.",
            f"At most {MAX_RUNS} at once: choose fewer scenarios, rates or seeds.",
            "data",
        )
    moment = time.strftime("%Y%m%d-%H%M%S")
    members = tuple(
        Member(planned.scenario.key, planned.config.training.seed + number, new_id(), rung.lora, rung.full)
        for number in range(draft.seeds)
        for planned in chosen
        for rung in ladder(planned.config, draft.rates)
    )
    described = tuple(
        planned.to_json() | ({"config": planned.config.to_json()} if planned.runs else {}) for planned in plans
    )
    experiment = Experiment(
        f"exp-{moment}-{secrets.token_hex(3)}",
        title,
        draft.question,
        draft.equal_budget,
        described,
        members,
        machine(),
    )
    if len(set(experiment.runs)) == len(members):
        return experiment
    return _make(draft, plans)  # two ids were equal by chance


def count_runs(plans: Iterable[ScenarioPlan], seeds: int, rates: Sequence[float]) -> int:
    """Runs of these scenarios, at all rates and seeds."""
    return seeds * sum(len(ladder(planned.config, rates)) for planned in plans if planned.runs)


def _damaged(experiment_id: str, message: str) -> dict[str, Any]:
    """The summary of an experiment that cannot be read."""
    row = {"id": experiment_id, "name": experiment_id, "question": "", "state": "failed", "finished": 0, "runs": 0}
    return row | {"states": {}, "remaining": None, "message": message}


def _state(states: list[str]) -> str:
    """One state that sums up all of them."""
    for state in ("stopping", "running", "starting", "queued"):
        if state in states:
            return "running" if state == "starting" or (state == "queued" and "finished" in states) else state
    if all(state == "finished" for state in states):
        return "finished"
    return "failed" if "failed" in states else "stopped"


def default_name(set_title: str, model: str, equal_budget: bool) -> str:
    """The name of an experiment that was not given one."""
    return f"{set_title} on {Path(model).name or model}" + (", equal budget" if equal_budget else "")


def expand(experiments: Experiments, names: Sequence[str]) -> tuple[list[str], Experiment | None]:
    """Run ids, with experiments expanded to their runs; and the experiment, if `names` is just one."""
    ids: list[str] = []
    found = None
    for name in names:
        if ID.fullmatch(name):
            found = experiments.get(name)
            ids += [run for run in found.runs if len(names) == 1 or (experiments.store.folder / run).is_dir()]
        else:
            ids.append(name)
    return ids, found if len(names) == 1 else None
