"""API endpoints for programs (`gradio_client`): modules, plan, train, runs, run, stop, export, scenarios, compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import gradio as gr

from trainer import service
from trainer.common.errors import UserError
from trainer.config import validation
from trainer.config.schema import ModelConfig
from trainer.service.experiments import MAX_COMPARED, Request, parse_rates
from trainer.service.lab import Lab
from ui.clients import monitor_of_client

Answer = TypeVar("Answer")


def build(lab: Lab) -> None:
    """Add the endpoints to the current Blocks."""
    endpoints = Endpoints(lab)
    for name in ("modules", "plan", "train", "runs", "run", "stop", "scenarios", "compare"):
        gr.api(getattr(endpoints, name), api_name=name, concurrency_limit=None, queue=False)  # type: ignore[attr-defined]
    # a file needs components, so that the client downloads it
    box, file = gr.Textbox(visible=False, label="run_id"), gr.File(visible=False, label="adapter")
    gr.Button(visible=False).click(endpoints.export, box, file, api_name="export", queue=False)


class Endpoints:
    """The endpoints. Each method's docstring and types are its documentation on /?view=api."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def modules(self, model: str, revision: str = "main") -> dict[str, Any]:
        """The modules of a model, by kind."""

        def read() -> dict[str, Any]:
            chosen = ModelConfig(_text(model), _text(revision))
            return service.models.module_map(self._lab, chosen, monitor_of_client()).to_json()

        return _answer(read)

    def plan(self, config: dict[str, Any]) -> dict[str, Any]:
        """What a configuration would train: counts, sizes, memory, steps, match report (`receipts`), issues."""

        def make() -> dict[str, Any]:
            checked = service.planning.check(self._lab, config)
            service.data.read_if_quick(self._lab, checked)
            return service.planning.plan(self._lab, checked).to_json()

        return _answer(make)

    def train(self, config: dict[str, Any]) -> str:
        """Queue a run of a configuration; returns its id."""

        def start() -> str:
            checked = service.planning.check(self._lab, config)
            return service.runs.start(self._lab, checked, service.planning.plan(self._lab, checked)).id

        return _answer(start)

    def runs(self) -> list[Any]:
        """Summaries of all runs, newest first."""
        return _answer(self._lab.store.summaries)

    def run(self, run_id: str) -> dict[str, Any]:
        """The summary of one run, its answers to held-out prompts at each evaluation (`samples`), and what its
        modules earned (`attribution`), null if that is not measured."""

        def read() -> dict[str, Any]:
            run = self._lab.store.get(_text(run_id))
            found = service.attribution.read(self._lab, run.id)
            earned = service.attribution.to_json(found) if found else None
            return run.summary() | {"samples": service.runs.samples(run).to_json(), "attribution": earned}

        return _answer(read)

    def stop(self, run_id: str) -> str:
        """Stop a run or an experiment; returns what was done."""
        return _answer(lambda: service.runs.stop(self._lab, _text(run_id)))

    def scenarios(
        self,
        config: dict[str, Any],
        set: str = "six",
        equal_budget: bool = False,
        seeds: int = 1,
        rates: str = "0.5, 1, 2",
    ) -> dict[str, Any]:
        """Queue the scenarios of a set as one experiment; returns its id, its runs and its scenarios.

        `rates`: factors of the configured learning rates that every scenario is run at.
        """

        def queue() -> dict[str, Any]:
            request = Request(_text(set), equal_budget is True, _whole(seeds), parse_rates(_text(rates)))
            experiment = service.experiments.start(self._lab, validation.from_json(config), request)
            # without their configurations: a client would download anything that has a `path`
            scenarios = [{key: item[key] for key in item if key != "config"} for item in experiment.scenarios]
            return experiment.to_json() | {"scenarios": scenarios}

        return _answer(queue)

    def compare(self, runs: list[Any]) -> dict[str, Any]:
        """Compare runs, or the runs of an experiment, by id."""
        return _answer(
            lambda: service.experiments.compare(self._lab, [_text(run) for run in _list(runs)])[0].to_json()
        )

    def export(self, run_id: str) -> str:
        """A run's adapter as a zip."""
        return _answer(lambda: str(service.exports.adapter(self._lab, _text(run_id))))


def _answer(action: Callable[[], Answer]) -> Answer:
    """The result of `action`; a UserError becomes the caller's error message."""
    try:
        return action()
    except UserError as error:
        raise gr.Error(str(error), print_exception=False) from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise UserError("This must be text.", "Pass a model's name, or a run's id from the list of runs.", "data")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > MAX_COMPARED:
        raise UserError(
            f"This must be a list of at most {MAX_COMPARED} ids.", "Take them from the list of runs.", "data"
        )
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError("The number of seeds must be a whole number.", "Write 1, 3 or 5.", "data")
    return value
