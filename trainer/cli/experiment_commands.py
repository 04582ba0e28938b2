"""The commands `scenarios`, `experiments` and `compare`, and what `stop` and `resume` do to an experiment."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trainer.cli.data_commands import progress_bar
from trainer.cli.output import one_line, show, show_json
from trainer.common import formatting
from trainer.common.errors import UserError
from trainer.common.program import COMMAND
from trainer.config import validation
from trainer.service import experiments, exports, runs
from trainer.service.experiments import (
    DEFAULT,
    GONE,
    MARGIN,
    MAX_SEEDS,
    OPEN,
    PRICES,
    SETS,
    Comparison,
    Criteria,
    Experiment,
    Request,
    ScenarioPlan,
    cells,
    parse_rates,
)
from trainer.service.lab import Lab

STOPPED, FAILED = 3, 1
POLL_INTERVAL = 0.5
"""Seconds between checks of the runs' states."""


def add_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands to the command line."""
    scenarios = add("scenarios", run_scenarios, "run a set of scenarios")
    scenarios.add_argument("config", type=Path)
    names = ", ".join(item.key for item in SETS)
    scenarios.add_argument("--set", default="six", help=f"{names}, or the name of a custom set (default: six)")
    scenarios.add_argument("--equal-budget", action="store_true", help="solve r for the same trainable count in each")
    scenarios.add_argument("--seeds", type=int, default=1, help=f"runs of each, 1 to {MAX_SEEDS} (default: 1)")
    scenarios.add_argument(
        "--rates",
        default="0.5,1,2",
        help="factors of the configured learning rates to run each at; 1: only that one (default: 0.5,1,2)",
    )
    scenarios.add_argument("--json", action="store_true")
    add("experiments", list_experiments, "list all experiments").add_argument("--json", action="store_true")
    compared = add("compare", compare_runs, "compare runs, or those of an experiment")
    compared.add_argument("runs", nargs="+", metavar="RUN", help="ids of runs or of experiments")
    compared.add_argument("--html", type=Path, metavar="FILE", help="write the report as one HTML file")
    compared.add_argument("--markdown", type=Path, metavar="FILE", help="write the report as Markdown")
    compared.add_argument(
        "--margin",
        type=float,
        default=100 * MARGIN,
        metavar="PERCENT",
        help=f"losses this close are as good as equal (default: {100 * MARGIN:g} %% of the lower one)",
    )
    compared.add_argument(
        "--cheapest-by", choices=list(PRICES), default=DEFAULT.cost, help="what to save among equivalent ones"
    )
    compared.add_argument("--json", action="store_true")
    compared.add_argument("--csv", action="store_true", help="print the table of runs as CSV")


def run_scenarios(options: argparse.Namespace) -> int:
    lab, base = options.lab, validation.load(options.config)
    request = Request(options.set, options.equal_budget, options.seeds, parse_rates(options.rates))
    plans = experiments.plan_scenarios(lab, base, request)
    seconds = experiments.seconds(lab, base, plans, request)
    if not options.json:
        _print_scenarios(plans)
        count = experiments.count_runs(plans, request.seeds, request.rates)
        show(f"{count} runs, {_about(seconds, 'duration known after the first run')}")
    with progress_bar() as monitor:
        experiment = experiments.start(lab, base, request, plans, monitor)
    if options.json:
        value = {"type": "experiment", "id": experiment.id, "seconds": seconds}
        show_json(value | {"scenarios": [planned.to_json() for planned in plans]}, indent=None)
    return watch(experiment, options)


def watch(experiment: Experiment, options: argparse.Namespace) -> int:
    """Train queued runs until no run of the experiment is open. Ctrl+C stops it; a second Ctrl+C kills it."""
    lab: Lab = options.lab
    lab.scheduler.start()
    stopped = False
    progress = ExperimentProgress(lab, experiment, options.json)
    try:
        while True:
            try:
                if not progress.update():
                    break
                time.sleep(POLL_INTERVAL)
            except KeyboardInterrupt:
                stopped = True
                show(runs.stop(lab, experiment.id), file=sys.stderr)
    finally:
        progress.close()
        lab.scheduler.close()
    states = lab.experiments.states(experiment)
    _print_result(*experiments.compare(lab, [experiment.id]), options.json)
    if stopped or "stopped" in states:
        show(f"To resume: {COMMAND} resume {experiment.id}", file=sys.stderr)
        return STOPPED
    return 0 if all(state == "finished" for state in states) else FAILED


class ExperimentProgress:
    """The progress of an experiment: one line on a terminal, else a line for every run that ends."""

    def __init__(self, lab: Lab, experiment: Experiment, as_json: bool) -> None:
        self._lab, self._experiment = lab, experiment
        self._quiet = as_json
        self._reported: set[str] = set()
        total = len(experiment.members)
        self._bar: Any = None
        if sys.stderr.isatty() and not as_json:
            self._bar = tqdm(total=total, unit="run", dynamic_ncols=True, bar_format="{l_bar}{bar}| {postfix}")

    def update(self) -> bool:
        """Show what is new. Returns whether a run is still open."""
        states = self._lab.experiments.states(self._experiment)
        running = ""
        for run_id, state in zip(self._experiment.runs, states, strict=True):
            if state == GONE:
                continue
            if state not in OPEN and run_id not in self._reported:
                self._reported.add(run_id)
                self._report(run_id, state)
            elif state in OPEN and state != "queued":
                running = self._line(run_id)
        if self._bar is not None:
            self._bar.n = states.count("finished")
            self._bar.set_postfix_str(running)
        return any(state in OPEN for state in states)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _report(self, run_id: str, state: str) -> None:
        run = self._lab.store.get(run_id)
        loss = run.history.latest.get("eval_loss")
        figure = "" if loss is None else f"  eval loss {formatting.loss(loss)}"
        if not self._quiet:
            show(f"{state:11} {run.title}{figure}  {run.message}".rstrip())

    def _line(self, run_id: str) -> str:
        run = self._lab.store.get(run_id)
        left = self._lab.experiments.summary(self._experiment)["remaining"]
        return f"{run.title}: step {run.history.step} of {run.history.steps}, {_about(left, 'time unknown')}"


def list_experiments(options: argparse.Namespace) -> int:
    lab: Lab = options.lab
    found = lab.experiments.summaries()
    if options.json:
        show_json(found)
        return 0
    for row in found:
        text = one_line(row["message"] or row["name"])
        show(f"{row['id']}  {row['state']:9} {row['finished']:4} of {row['runs']:3} runs  {text}")
    return 0


def compare_runs(options: argparse.Namespace) -> int:
    criteria = Criteria(options.margin / 100, options.cheapest_by)
    if not 0 <= criteria.margin <= 1:
        raise UserError(f"A margin of {options.margin:g} % is not valid.", "Write a number from 0 to 100.", "data")
    found, experiment = experiments.compare(options.lab, options.runs, criteria)
    for path, write in ((options.html, exports.write_html), (options.markdown, exports.write_markdown)):
        if path:
            write(options.lab, found, experiment, path)
            show(path, file=sys.stderr)
    if options.csv:
        show(found.to_csv().removesuffix("\n"))
    elif options.json or not (options.html or options.markdown):
        _print_result(found, experiment, options.json)
    return 0


def resume_experiment(options: argparse.Namespace) -> int:
    lab: Lab = options.lab
    show(experiments.resume(lab, options.run), file=sys.stderr)
    return watch(lab.experiments.get(options.run), options)


def _print_scenarios(plans: Sequence[ScenarioPlan]) -> None:
    for planned in plans:
        show(f"{planned.scenario.title}: {planned.scenario.note}".removesuffix(": "))
        if planned.same_as:
            show(f"    trains the same weights as “{planned.same_as}”, so it is not run again")
            continue
        for receipt in planned.plan.receipts:
            show(f"    {receipt.tick:24} {receipt.treatment:5} {receipt.note}")
        rank = f", r {planned.r}" if planned.r else ""
        show(f"    {planned.plan.trainable:,} trainable parameters{rank}. {planned.budget}".rstrip())
        for issue in planned.issues:
            show(f"    cannot run: {issue}")


def _print_result(found: Comparison, experiment: Experiment | None, as_json: bool) -> None:
    if as_json:
        value = found.to_json() | ({"type": "comparison", "experiment": experiment.id} if experiment else {})
        show_json(value, indent=None if experiment else 2)
        return
    header = ("", *(title.partition(",")[0].lower() for title in found.columns.values()))
    rows = [header, *(cells(group, found.columns) for group in found.groups)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    for row in rows:
        show(
            "  ".join(
                text.rjust(width) if place else text.ljust(width)
                for place, (text, width) in enumerate(zip(row, widths, strict=True))
            )
        )
    for line in (*found.warnings, *found.verdict):
        show(f"- {line}")
    if found.differences:
        show("Settings that differ:")
        for setting, values in found.differences.items():
            show(f"  {setting}: {' | '.join(values)}")


def _about(seconds: float | None, unknown: str) -> str:
    return unknown if seconds is None else f"about {formatting.duration(seconds)}"
