"""Runs: start, train in this process, stop, kill, resume. `Lab.store` lists, opens, renames and deletes them."""

from __future__ import annotations

import os
from collections.abc import Callable

from trainer.common import devices, file_locks
from trainer.common.errors import InvalidConfig, UserError
from trainer.common.heartbeat import WAITING, Activity
from trainer.common.progress import ProgressMonitor
from trainer.config.schema import RunConfig
from trainer.config.validation import validate
from trainer.experiments.charts import loss_figure
from trainer.experiments.experiment import ID, OPEN
from trainer.planning.plan import Plan
from trainer.runs import lifecycle, queue_state, row_losses
from trainer.runs import samples as stored_samples
from trainer.runs.event_rows import Event
from trainer.runs.history import ACTIVE, ENDED, History
from trainer.runs.queue_state import Wait
from trainer.runs.run import MAX_TITLE, Run, describe_ticks
from trainer.runs.samples import Samples
from trainer.service import data, planning
from trainer.service.lab import Lab

__all__ = [
    "ACTIVE",
    "ENDED",
    "MAX_TITLE",
    "OPEN",
    "WAITING",
    "Activity",
    "Event",
    "History",
    "Run",
    "Samples",
    "check",
    "delete",
    "describe_ticks",
    "general_loss",
    "holders",
    "is_experiment",
    "is_open",
    "kill",
    "loss_figure",
    "put_first",
    "resume",
    "resume_here",
    "samples",
    "samples_version",
    "start",
    "start_here",
    "stop",
    "stop_open",
    "title",
    "train",
    "train_longer",
    "wait_of",
]


def check(lab: Lab, config: RunConfig, plan: Plan, monitor: ProgressMonitor | None = None) -> None:
    """All checks before a run of `config` is created. Raises InvalidConfig with all problems at once.

    The data are read last, and only if everything else is valid. Raises Canceled if `monitor` cancels that.
    """
    issues = [*validate(config), *plan.issues]
    if issues:
        raise InvalidConfig(issues)
    data.check(lab, config, monitor)


def start(lab: Lab, config: RunConfig, plan: Plan, monitor: ProgressMonitor | None = None) -> Run:
    """Queue a run; `plan`: the plan of `config`. Raises like `check`, without creating a run."""
    run = lab.store.create(config, _checked_plan(lab, config, plan, monitor))
    lab.scheduler.kick()
    return run


def start_here(lab: Lab, config: RunConfig, plan: Plan, monitor: ProgressMonitor | None = None) -> Run:
    """Like `start`, but for this process, which must then `train` the run."""
    checked = _checked_plan(lab, config, plan, monitor)
    return lab.store.create(config, checked, "starting", file_locks.identity(os.getpid()))


def train(lab: Lab, run: Run, echo: Callable[[Event], None]) -> int:
    """Train a run in this process; `echo` receives its events. Returns a worker's exit code."""
    from trainer.execution import worker

    os.environ["LAB_MODELS_DIR"] = str(lab.settings.models_dir.resolve())
    os.environ["LAB_DATA_DIR"] = str(lab.settings.data_dir.resolve())
    code = worker.work(run.folder, devices.devices(), echo)
    if code == worker.TAKEN:
        raise UserError("Another process is already training this run.", "Watch it with `runs`.", "data")
    return code


def is_experiment(run_id: str) -> bool:
    """Whether an id belongs to an experiment rather than a run."""
    return ID.fullmatch(run_id) is not None


def is_open(lab: Lab, run_id: str) -> bool:
    """Whether a run, or any run of an experiment, is queued or running. Raises UserError for an unknown id."""
    if is_experiment(run_id):
        return bool({*lab.experiments.states(lab.experiments.get(run_id))} & {*OPEN})
    return lab.store.get(run_id).history.state in OPEN


def stop(lab: Lab, run_id: str) -> str:
    """Stop a run, or all runs of an experiment; a second call kills. Returns what was done."""
    return lab.experiments.stop(run_id) if is_experiment(run_id) else lifecycle.stop_run(lab.store.get(run_id))


def stop_open(lab: Lab, run_id: str) -> None:
    """Like `stop`, for one of many runs. Raises UserError if it has already ended."""
    if not is_open(lab, run_id):
        raise UserError("It has already ended.", "", "data")
    stop(lab, run_id)


def delete(lab: Lab, run_id: str) -> None:
    """Delete a run with its adapter, checkpoints and log. Raises UserError if it is in use."""
    lab.store.delete(run_id)


def title(lab: Lab, run_id: str) -> str:
    """A run's name; its id if the run no longer exists."""
    try:
        return lab.store.get(run_id).title
    except UserError:
        return run_id[:60]


def kill(lab: Lab, run_id: str) -> str:
    """Kill a run's worker that shows no sign of life. Returns what was done; raises UserError if it does show one."""
    return lifecycle.kill_hung(lab.store.get(run_id))


def samples(run: Run) -> Samples:
    """The run's answers to held-out prompts, so far."""
    return stored_samples.read(run.folder)


def samples_version(run: Run) -> str:
    """Changes when there are new samples; costs no more than looking at the file's size."""
    return "-".join(map(str, stored_samples.stamp(run.folder)))


def resume(lab: Lab, run_id: str, epochs: float = 0) -> None:
    """Queue an ended run again: it continues where it stopped, for `epochs` more. Raises UserError."""
    lifecycle.resume_run(lab.store.get(run_id), epochs=epochs)
    lab.scheduler.kick()


def train_longer(lab: Lab, run_id: str, epochs: object) -> None:
    """Queue an ended run again for `epochs` more. Raises UserError, also if that is not a number above 0."""
    if not isinstance(epochs, int | float) or not epochs > 0:
        raise UserError("The number of epochs is missing.", "Enter how many more to train.", "data")
    resume(lab, run_id, epochs)


def resume_here(lab: Lab, run_id: str, epochs: float = 0) -> Run:
    """Like `resume`, but for this process, which must then `train` the run."""
    run = lab.store.get(run_id)
    lifecycle.resume_run(run, "starting", file_locks.identity(os.getpid()), epochs)
    return run


def wait_of(lab: Lab, run: Run) -> Wait:
    """What a queued run waits for."""
    return queue_state.wait_of(lab.store, run)


def holders(lab: Lab) -> str:
    """Who has the devices, as a sentence; empty if they are free."""
    return queue_state.holders(lab.store)


def put_first(lab: Lab, run_id: str) -> None:
    """Put a queued run at the front of the queue. Raises UserError if it is not queued."""
    lifecycle.put_first(lab.store, run_id)


def _checked_plan(lab: Lab, config: RunConfig, plan: Plan, monitor: ProgressMonitor | None) -> Plan:
    """The plan after all checks; recomputed if they have read the data, so that its steps are known."""
    size_before = data.size(lab, config)
    check(lab, config, plan, monitor)
    return plan if data.size(lab, config) == size_before else planning.plan(lab, config)


def general_loss(run: Run) -> str:
    """The loss on general text before and after training, in words; empty if one of both is unknown."""
    found = row_losses.read(run.folder).get(row_losses.GENERAL)
    return found.sentence if found is not None else ""
