"""Scenarios: what a set of them means on a model; run them as one experiment; compare runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from trainer.common.progress import ProgressMonitor
from trainer.config.schema import RunConfig
from trainer.experiments import charts
from trainer.experiments.charts import COLORS, CURVES, layout, packed, price_figure
from trainer.experiments.comparison import COLUMNS, MAX_COMPARED, PRICES, SPREAD, Comparison, Group, Row, shown
from trainer.experiments.comparison import compare as compare_runs
from trainer.experiments.curves import AXES
from trainer.experiments.experiment import GONE, MAX_SEEDS, OPEN, Experiment, default_name, expand
from trainer.experiments.report import cells
from trainer.experiments.scenario_plans import Offer, make_offers
from trainer.planning.scenarios import SETS, Scenario
from trainer.runs import duration_estimates
from trainer.runs.index import stamp
from trainer.runs.store import MAX_TITLE
from trainer.service import data, models, planning, runs
from trainer.service.lab import Lab

__all__ = [
    "AXES",
    "COLORS",
    "COLUMNS",
    "CURVES",
    "GONE",
    "MAX_COMPARED",
    "MAX_SEEDS",
    "MAX_TITLE",
    "OPEN",
    "PRICES",
    "SETS",
    "SPREAD",
    "Comparison",
    "Experiment",
    "Group",
    "Offer",
    "Request",
    "Row",
    "Scenario",
    "cells",
    "compare",
    "curves_figure",
    "layout",
    "offers",
    "packed",
    "price_figure",
    "resume",
    "scenarios",
    "seconds",
    "shown",
    "start",
    "version",
]


@dataclass(frozen=True)
class Request:
    """Which scenarios to run on a configuration, and how."""

    set: str = "six"
    """Key of a built-in set, or name of an own one."""
    equal_budget: bool = False
    """Solve each scenario's rank for the same trainable count."""
    seeds: int = 1
    """Runs of each scenario."""
    without: frozenset[str] = frozenset()
    """Keys of scenarios to leave out."""
    name: str = ""
    """Of the experiment; empty: the set's and the model's."""


def scenarios(lab: Lab, config: RunConfig, set_name: str) -> tuple[Scenario, ...]:
    """The scenarios of a set on a configuration's model. Raises UserError where there is no such set."""
    return lab.own_sets.find(set_name).make(models.module_map(lab, config.model))


def offers(lab: Lab, config: RunConfig, request: Request) -> tuple[Offer, ...]:
    """What the requested scenarios mean with this configuration: a configuration and a plan of each."""
    chosen, module_map = scenarios(lab, config, request.set), models.module_map(lab, config.model)
    plan = partial(planning.plan, lab)
    return make_offers(config, chosen, module_map, plan, request.equal_budget, request.without)


def seconds(lab: Lab, config: RunConfig, offered: Iterable[Offer], seeds: int) -> float | None:
    """How long these scenarios will take with so many seeds; None if there is no earlier run to go by."""
    configs = [offer.config for offer in offered if offer.runs] * seeds
    paces = duration_estimates.paces(lab.store, config.model)
    size = lab.data_sizes.get(data.read_as(config))  # of the demo, earlier runs tell the length of an example, too
    return duration_estimates.total(configs, paces, size) if configs else None


def start(
    lab: Lab,
    config: RunConfig,
    request: Request,
    offered: Sequence[Offer] | None = None,
    monitor: ProgressMonitor | None = None,
) -> Experiment:
    """Queue the requested scenarios as one experiment. `offered`: their `offers`, where they are known already.

    Raises as `runs.start`, and where none of them can run; then nothing is queued.
    """
    offered = offers(lab, config, request) if offered is None else offered
    found = lab.own_sets.find(request.set)
    runnable = [offer for offer in offered if offer.runs]
    if runnable:  # without issues of their own; model and data are the same for all of them
        runs.check(lab, runnable[0].config, runnable[0].plan, monitor)
    title = request.name.strip() or default_name(found.title, config.model.name, request.equal_budget)
    plan = partial(planning.plan, lab)
    made = lab.experiments.create(title, found.question, offered, request.seeds, request.equal_budget, plan)
    lab.scheduler.kick()
    return made


def resume(lab: Lab, experiment_id: str) -> str:
    """Queue again what did not finish of an experiment. Returns what was done.

    Raises as `runs.start` where its model or data do not allow it any more; then nothing is queued.
    """
    experiment = lab.experiments.get(experiment_id)
    states = zip(experiment.members, lab.experiments.states(experiment), strict=True)
    if left := [member for member, state in states if state not in (*OPEN, "finished")]:
        config = experiment.config(left[0])
        runs.check(lab, config, planning.plan(lab, config))
    done = lab.experiments.resume(experiment_id, partial(planning.plan, lab))
    lab.scheduler.kick()
    return done


def compare(lab: Lab, names: Sequence[str]) -> tuple[Comparison, Experiment | None]:
    """Compare runs, or those of experiments, by their ids; and the experiment, where it is one and nothing else."""
    ids, experiment = expand(lab.experiments, names)
    return compare_runs(lab.store, ids, experiment), experiment


def version(lab: Lab, names: Sequence[str]) -> list[Any]:
    """Changes whenever the comparison of these runs or experiments does. Raises UserError for an id that is none."""
    ids, _ = expand(lab.experiments, names)
    return [(run_id, stamp(f"{lab.store.folder}/{run_id}")) for run_id in ids]


def curves_figure(lab: Lab, found: Comparison, curve: str, axis: str, width: int) -> dict[str, Any]:
    """The curves (of CURVES) of all compared runs over an axis of AXES, for plotly.js; training loss smoothed."""
    return charts.curves_figure(lab.store, found, curve, axis, width)
