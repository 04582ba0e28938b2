"""The endpoints for programs (`gradio_client`): modules, plan, train, runs, run, stop, export,
scenarios, compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from trainer import service
from trainer.common.errors import UserError
from trainer.config import validation
from trainer.config.schema import ModelConfig
from trainer.service.experiments import MAX_COMPARED, Request
from trainer.service.lab import Lab


def build(lab: Lab) -> None:
    """Add the endpoints to the Blocks that is being built."""

    def modules(model: str, revision: str = "main") -> dict:
        """The modules of a model, by kind."""
        return _in_words(lambda: service.models.module_map(lab, ModelConfig(_text(model), _text(revision))).to_json())

    def plan(config: dict) -> dict:
        """What a configuration would train: counts, sizes, memory, steps, receipts, issues."""

        def planned() -> dict:
            found = service.planning.check(lab, config)
            service.data.read_if_quick(lab, found)
            return service.planning.plan(lab, found).to_json()

        return _in_words(planned)

    def train(config: dict) -> str:
        """Queue a run of a configuration; returns its id."""

        def started() -> str:
            found = service.planning.check(lab, config)
            return service.runs.start(lab, found, service.planning.plan(lab, found)).id

        return _in_words(started)

    def runs() -> list:
        """Summaries of all runs, newest first."""
        return _in_words(lambda: lab.store.summaries())

    def run(run_id: str) -> dict:
        """The summary of one run."""
        return _in_words(lambda: lab.store.get(_text(run_id)).summary())

    def stop(run_id: str) -> str:
        """Stop a run or an experiment; returns what was done."""
        return _in_words(lambda: service.runs.stop(lab, _text(run_id)))

    def scenarios(config: dict, set: str = "six", equal_budget: bool = False, seeds: int = 1) -> dict:
        """Queue the scenarios of a set as one experiment: its id, its runs, what each scenario means."""

        def queued() -> dict:
            request = Request(_text(set), equal_budget is True, _whole(seeds))
            made = service.experiments.start(lab, validation.from_json(config), request)
            # without their configurations: a client takes whatever has a `path` for a file to fetch
            plain = [{key: item[key] for key in item if key != "config"} for item in made.scenarios]
            return made.to_json() | {"scenarios": plain}

        return _in_words(queued)

    def compare(runs: list) -> dict:
        """Compare runs, or those of an experiment, by their ids."""
        return _in_words(lambda: service.experiments.compare(lab, [_text(run) for run in _list(runs)])[0].to_json())

    for endpoint in (modules, plan, train, runs, run, stop, scenarios, compare):
        gr.api(endpoint, api_name=endpoint.__name__, concurrency_limit=None, queue=False)

    def export(run_id: str) -> str:
        """The adapter of a run as a zip."""
        return _in_words(lambda: str(service.exports.adapter(lab, _text(run_id))))

    # a file needs components, so that the client fetches it
    box, file = gr.Textbox(visible=False, label="run_id"), gr.File(visible=False, label="adapter")
    gr.Button(visible=False).click(export, box, file, api_name="export", queue=False)


def _in_words(action: Callable[[], Any]) -> Any:
    """The result of `action`; a UserError becomes the message that the caller gets."""
    try:
        return action()
    except UserError as error:
        raise gr.Error(str(error), print_exception=False) from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise UserError("This must be text.", "Name a model, or take a run's id from the list of runs.", "data")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > MAX_COMPARED:
        raise UserError(f"This must be a list of at most {MAX_COMPARED} ids.", "Take them from the runs.", "data")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError("The number of seeds must be a whole number.", "Write 1, 3 or 5.", "data")
    return value
