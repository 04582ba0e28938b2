"""Suggest: which selection is worth training, by rule at once, and by a race on the user's model and data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trainer.common import devices
from trainer.common.disk import write_failed
from trainer.common.errors import UserError
from trainer.common.progress import ProgressMonitor
from trainer.config.schema import RunConfig
from trainer.execution import race_process
from trainer.execution.race_process import STOPPED, Request, Show
from trainer.experiments.race.race import FAILED, FINALIST, LEFT_OUT, OUT
from trainer.planning.scenarios import starting_ticks
from trainer.planning.schedule import UNREAD
from trainer.planning.selection_rules import rules as rules_of
from trainer.runs.store import new_id
from trainer.service import data, models, planning
from trainer.service.lab import Lab

__all__ = ["FAILED", "FINALIST", "LEAST_MINUTES", "LEFT_OUT", "MOST_MINUTES", "OUT", "STOPPED", "race", "rules"]

FOLDER = "races"
"""In the runs folder; one folder a race, with its race.json."""
LEAST_MINUTES, MOST_MINUTES = 0.1, 24 * 60.0


def rules(lab: Lab, config: RunConfig) -> list[str]:
    """What is known about the ticks of `config` by rule, without training; of the model's usual ones without ticks.

    The size of the data counts where they have been read (`data.check`, `data.read_if_quick`).
    """
    if not config.modules:
        config = replace(config, modules=starting_ticks(models.module_map(lab, config.model)))
    return rules_of(config, planning.plan(lab, config), data.size(lab, config) or UNREAD)


def race(
    lab: Lab, config: RunConfig, minutes: float, show: Show, monitor: ProgressMonitor | None = None
) -> dict[str, Any]:
    """Race selections in this process for `minutes` after model and data are loaded. Returns the last state.

    `show` receives every state (see `trainer/experiments/race/answer.py`). Raises UserError, and like `data.check`.
    """
    if not LEAST_MINUTES <= minutes <= MOST_MINUTES:
        raise UserError(
            f"A race of {minutes:g} minutes is not possible.",
            f"Choose between {LEAST_MINUTES:g} and {MOST_MINUTES:g} minutes.",
            "data",
        )
    models.module_map(lab, config.model)  # a model that cannot be read is refused before the data are
    data.check(lab, config, monitor)
    folder = lab.settings.runs_dir.resolve() / FOLDER / new_id()
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise write_failed(error) from error
    own = lab.own_sets.all().get(planning.PRESETS, ())
    folders = lab.settings.models_dir.resolve(), lab.settings.data_dir.resolve()
    return race_process.run(Request(folder, config, minutes, own, *folders), devices.devices(), show)
