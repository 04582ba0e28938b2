"""Trains a run again without some of its kinds."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from trainer.common.disk import write_failed
from trainer.common.errors import UserError
from trainer.common.progress import ProgressMonitor
from trainer.planning import respend
from trainer.runs import retrained
from trainer.runs.run import MAX_TITLE, Run
from trainer.service import models, planning, runs
from trainer.service.lab import Lab

__all__ = ["retrained_run", "train_without"]


def train_without(lab: Lab, run_id: str, names: Collection[str], monitor: ProgressMonitor | None = None) -> Run:
    """Queue the configuration of a run without the kinds `names`, whose parameters go to the other ranks.

    Raises UserError if that cannot be trained.
    """
    run = lab.store.get(run_id)
    if run.config is None:
        raise UserError(run.problem, "Choose another run.", "data")
    config = respend.without(run.config, models.module_map(lab, run.config.model, monitor), names)
    config = replace(config, title=f"{run.title} without {', '.join(sorted(names))}"[:MAX_TITLE])
    started = runs.start(lab, config, planning.plan(lab, config), monitor)
    try:
        retrained.record(run.folder, started.id)
    except OSError as error:
        raise write_failed(error) from error
    return started


def retrained_run(lab: Lab, run_id: str) -> Run | None:
    """The newest run that `train_without` started from this one; None if there is none any more."""
    try:
        return lab.store.get(retrained.read(lab.store.get(run_id).folder))
    except UserError:
        return None
