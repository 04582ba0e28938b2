"""Scenarios: plan a set of them for a model, run them as one experiment, and compare runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from trainer.common.progress import ProgressMonitor
from trainer.config.schema import RunConfig
from trainer.experiments import charts
from trainer.experiments.charts import COLORS, CURVES, layout, packed, price_figure
from trainer.experiments.comparison import MAX_COMPARED, Comparison
from trainer.experiments.comparison import compare as compare_runs
from trainer.experiments.curves import AXES
from trainer.experiments.experiment import GONE, MAX_SEEDS, OPEN, Draft, count_runs, default_name, expand
from trainer.experiments.experiment_file import Experiment
from trainer.experiments.rate_ladder import FACTORS, SINGLE, ladder
from trainer.experiments.rate_ladder import parse as parse_rates
from trainer.experiments.report import cells
from trainer.experiments.scenario_plans import ScenarioPlan, make_scenario_plans
from trainer.experiments.statistics import MARGIN
from trainer.experiments.table import COLUMNS, PRICES, SPREAD, Group, Row, shown, shown_spread
from trainer.experiments.verdict import DEFAULT, Criteria
from trainer.planning.scenarios import SETS, Scenario
from trainer.runs import duration_estimates
from trainer.runs.index import stamp
from trainer.runs.run import MAX_TITLE
from trainer.service import data, models, planning, runs
from trainer.service.lab import Lab

__all__ = [
    "AXES",
    "COLORS",
    "COLUMNS",
    "CURVES",
    "DEFAULT",
    "FACTORS",
    "GONE",
    "MARGIN",
    "MAX_COMPARED",
    "MAX_SEEDS",
    "MAX_TITLE",
    "OPEN",
    "PRICES",
    "SETS",
    "SINGLE",
    "SPREAD",
    "Comparison",
    "Criteria",
    "Experiment",
    "Group",
    "Request",
    "Row",
    "Scenario",
    "ScenarioPlan",
    "cells",
    "compare",
    "count_runs",
    "curves_figure",
    "layout",
    "packed",
    "parse_rates",
    "plan_scenarios",
    "price_figure",
    "resume",
    "scenarios",
    "seconds",
    "shown",
    "shown_spread",
    "start",
    "version",
]


@dataclass(frozen=True)
class Request:
    """Which scenarios to run on a configuration, and how."""

    set: str = "six"
    """Key of a built-in set, or name of a user's own."""
    equal_budget: bool = False
    """Choose each scenario's rank for the same trainable count."""
    seeds: int = 1
    """Runs of each scenario at each rate."""
    rates: tuple[float, ...] = SINGLE
    """Factors of the configured learning rates: the ladder that every scenario is run at."""
    without: frozenset[str] = frozenset()
    """Keys of scenarios to leave out."""
    name: str = ""
    """Name of the experiment; empty: made from the set's and the model's."""


def scenarios(lab: Lab, config: RunConfig, set_name: str) -> tuple[Scenario, ...]:
    """The scenarios of a set on a configuration's model. Raises UserError if there is no such set."""
    return lab.own_sets.find(set_name).make(models.module_map(lab, config.model))


def plan_scenarios(lab: Lab, config: RunConfig, request: Request) -> tuple[ScenarioPlan, ...]:
    """What the requested scenarios mean with this configuration: a configuration and a plan for each."""
    chosen, module_map = scenarios(lab, config, request.set), models.module_map(lab, config.model)
    plan = partial(planning.plan, lab)
    return make_scenario_plans(config, chosen, module_map, plan, request.equal_budget, request.without)


def seconds(lab: Lab, config: RunConfig, plans: Iterable[ScenarioPlan], request: Request) -> float | None:
    """Estimated duration of these scenarios; None if there is no earlier run to go by."""
    configs = [
        planned.config for planned in plans if planned.runs for _ in ladder(planned.config, request.rates)
    ] * request.seeds
    paces = duration_estimates.paces(lab.store, config.model)
    size = lab.data_sizes.get(data.read_as(config))  # for the demo, earlier runs know the example length, too
    return duration_estimates.total(configs, paces, size) if configs else None


def start(
    lab: Lab,
    config: RunConfig,
    request: Request,
    plans: Sequence[ScenarioPlan] | None = None,
    monitor: ProgressMonitor | None = None,
) -> Experiment:
    """Queue the requested scenarios as one experiment. `plans`: from `plan_scenarios`, if already computed.

    Raises like `runs.start`, and if none of them can run; then nothing is queued.
    """
    plans = plan_scenarios(lab, config, request) if plans is None else plans
    chosen = lab.own_sets.find(request.set)
    runnable = [planned for planned in plans if planned.runs]
    if runnable:  # they have no issues of their own, and share model and data
        runs.check(lab, runnable[0].config, runnable[0].plan, monitor)
    title = request.name.strip() or default_name(chosen.title, config.model.name, request.equal_budget)
    draft = Draft(title, chosen.question, request.seeds, request.rates, request.equal_budget)
    experiment = lab.experiments.create(draft, plans, partial(planning.plan, lab))
    lab.scheduler.kick()
    return experiment


def resume(lab: Lab, experiment_id: str) -> str:
    """Queue an experiment's unfinished runs again. Returns what was done.

    Raises like `runs.start` if its model or data no longer allow it; then nothing is queued.
    """
    experiment = lab.experiments.get(experiment_id)
    states = zip(experiment.members, lab.experiments.states(experiment), strict=True)
    if left := [member for member, state in states if state not in (*OPEN, "finished")]:
        config = experiment.config(left[0])
        runs.check(lab, config, planning.plan(lab, config))
    done = lab.experiments.resume(experiment_id, partial(planning.plan, lab))
    lab.scheduler.kick()
    return done


def compare(lab: Lab, names: Sequence[str], criteria: Criteria = DEFAULT) -> tuple[Comparison, Experiment | None]:
    """Compare runs or experiments by their ids; also returns the experiment, if `names` is just one."""
    ids, experiment = expand(lab.experiments, names)
    return compare_runs(lab.store, ids, experiment, criteria), experiment


def version(lab: Lab, names: Sequence[str]) -> list[Any]:
    """A value that changes whenever the comparison of these ids does. Raises UserError for unknown ids."""
    ids, _ = expand(lab.experiments, names)
    return [(run_id, stamp(f"{lab.store.folder}/{run_id}")) for run_id in ids]


def curves_figure(lab: Lab, found: Comparison, curve: str, axis: str, width: int) -> dict[str, Any]:
    """One of CURVES for all compared runs over one of AXES, for plotly.js; `width`: smoothing of training loss."""
    return charts.curves_figure(lab.store, found, curve, axis, width)
