"""The command line: everything that the page can do.

Exit codes: 0 success, 1 the run failed, 2 bad input (all problems are printed), 3 the run was stopped.
"""

from __future__ import annotations

import argparse
import os
import runpy
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer import __version__
from trainer.cli import attribution_commands, data_commands, experiment_commands, sample_commands, suggest_commands
from trainer.cli.output import one_line, show, show_json
from trainer.cli.plan_text import print_issue, print_plan
from trainer.cli.progress import Progress
from trainer.common import file_modes, formatting, gpu_allocator
from trainer.common.errors import InvalidConfig, Issue, UserError
from trainer.common.program import APP, COMMAND, HOME
from trainer.config import overrides, validation
from trainer.config.schema import ModelConfig, RunConfig
from trainer.service import data, exports, models, planning, runs
from trainer.service.lab import Lab, Settings
from trainer.service.models import Unreachable
from trainer.service.runs import Run

ABOUT = "Train LoRA adapters: everything the page can do, from the command line."
BAD_INPUT = 2


def main(arguments: list[str] | None = None) -> int:
    file_modes.keep_private()
    parser = _parser()
    options, flags = parser.parse_known_args(arguments)
    options.flags = flags  # flags of the page, parsed by app.py
    if flags and options.command is not _app:
        parser.error(f"unrecognized arguments: {' '.join(flags)}")
    command: Callable[[argparse.Namespace], int] = options.command
    os.environ.update(gpu_allocator.environment())  # before anything imports torch
    options.lab = Lab(Settings(runs_dir=options.runs_dir, models_dir=options.models_dir), in_process=True)
    try:
        return command(options)
    except InvalidConfig as error:
        for issue in error.issues:
            show(issue, file=sys.stderr)
    except UserError as error:
        show(error, file=sys.stderr)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read our output has closed it
    return BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=COMMAND, description=ABOUT)
    parser.add_argument("--version", action="version", version=f"LoRA Module Lab {__version__}")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument("--models-dir", type=Path, default=Path("models"), help="folder of models (default: models)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], int], about: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about)
        sub.set_defaults(command=command)
        return sub

    page = commands.add_parser("app", help="start the app and use it in a browser", add_help=False)
    page.set_defaults(command=_app)
    config = add("config", _config, "print a configuration to start from")
    config.add_argument("model", nargs="?", default="demo")
    config.add_argument(
        "--scenario", choices=[item.key for item in planning.SIX],
        help="the study's job with one of its six scenarios (default: LoRA on the model's attention and MLP)",
    )  # fmt: skip
    modules = add("modules", _modules, "show the modules of a model, by group")
    modules.add_argument("model")
    modules.add_argument("--revision", default="main")
    modules.add_argument("--json", action="store_true")
    plan = add("plan", _plan, "show what a configuration would train and cost")
    plan.add_argument("config", type=Path)
    plan.add_argument("--json", action="store_true")
    _add_changes(plan)
    data_commands.add_command(add)
    train = add("train", _train, "train a configuration in this process")
    train.add_argument("config", type=Path, nargs="?", help="configuration file (default: only what --set says)")
    train.add_argument("--data-file", type=Path, help="train on this file instead of the configuration's data")
    train.add_argument("--json", action="store_true", help="print the run's events, one JSON object per line")
    _add_changes(train)
    _add_run_commands(add)
    sample_commands.add_command(add)
    attribution_commands.add_commands(add, _moved)
    experiment_commands.add_commands(add)
    suggest_commands.add_command(add)
    return parser


def _add_changes(command: argparse.ArgumentParser) -> None:
    about = "override a setting, such as training.max_steps=100; may be repeated"
    command.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help=about)


def _add_run_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    runs = add("runs", _runs, "list all runs")
    stop = add("stop", _stop, "stop a run or an experiment after the current step; a second time kills it")
    add("first", _first, "put a queued run at the front of the queue").add_argument("run")
    rename = add("rename", _rename, "rename a run")
    delete = add("delete", _delete, "delete a run with its adapter and checkpoints")
    resume = add("resume", _resume, "resume a run or an experiment from its newest checkpoint, in this process")
    export = add("export", _export, "write a run's adapter as a zip")
    for command in (stop, rename, delete, resume, export):
        command.add_argument("run")
    rename.add_argument("name")
    delete.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    for command in (runs, stop, resume, export):
        command.add_argument("--json", action="store_true")
    resume.add_argument("--epochs", type=float, default=0, help="train for more epochs than before")
    export.add_argument("-o", "--output", type=Path, help="file to write (default: named after the run)")


def _app(options: argparse.Namespace) -> int:
    """Start the app like `python app.py`. It is run, not imported: the trainer does not depend on the page."""
    folders = ["--runs-dir", str(options.runs_dir), "--models-dir", str(options.models_dir)]
    sys.argv = [APP, *folders, *options.flags]
    runpy.run_path(str(HOME / "app.py"), run_name="__main__")
    return 0


def _config(options: argparse.Namespace) -> int:
    """Without a scenario: what the page starts with on this model. With a scenario, no model is read."""
    if options.scenario:
        show_json(planning.study_job(options.model, planning.scenario(options.scenario)).to_json())
        return 0
    model = ModelConfig(name=options.model)
    try:
        config = planning.start_from(options.lab, model)
    except Unreachable as error:
        config = planning.starting_config(model, None)
        show(error, "The study's seven names are ticked; `plan` says what they match.", file=sys.stderr)
    show_json(config.to_json())
    return 0


def _modules(options: argparse.Namespace) -> int:
    module_map = models.module_map(options.lab, ModelConfig(name=options.model, revision=options.revision))
    if options.json:
        show_json(module_map.to_json())
        return 0
    size = f"{module_map.parameters:,} parameters, {module_map.layers} layers"
    show(f"{module_map.model}: {module_map.model_type}, {size}")
    if module_map.checkpoint:
        show(module_map.checkpoint.describe())
    for kind in module_map.kinds:
        name = f"  {kind.name}" if kind.slice_of else kind.name
        shape = "×".join(map(str, kind.shape))
        size = f"({kind.parameters:,})" if kind.slice_of else f"{kind.parameters:,}"
        treatments = ", ".join(kind.treatments) or "–"
        count = f"{len(kind.modules):4} × {shape:16} {size:>16}"
        show(f"  {kind.group:10} {name:32} {count}  {treatments}  {kind.reason}".rstrip())
    return 0


def _plan(options: argparse.Namespace) -> int:
    config = planning.check(options.lab, _configuration(options))
    with data_commands.progress_bar() as monitor:
        data.read_if_quick(options.lab, config, monitor)
    plan = planning.plan(options.lab, config)
    if options.json:
        show_json(plan.to_json())
    else:
        print_plan(plan)
    return 0 if planning.lacks_only_weights(plan, config.model.name) else BAD_INPUT


def _train(options: argparse.Namespace) -> int:
    lab: Lab = options.lab
    config = planning.check(lab, _configuration(options))
    if options.data_file:
        name = data.add(lab, options.data_file)
        config = replace(config, data=replace(config.data, source="file", path=name))
    with data_commands.progress_bar() as monitor:
        run = runs.start_here(lab, config, planning.plan(lab, config), monitor)
    for warning in run.plan()["warnings"]:
        print_issue(Issue.from_json(warning), sys.stderr)
    if options.json:
        show_json({"type": "run", "id": run.id, "folder": str(run.folder)}, indent=None)
    else:
        show(f"Run {run.id} in {run.folder}")
    return _train_run(run, options)


def _train_run(run: Run, options: argparse.Namespace) -> int:
    code = runs.train(options.lab, run, Progress(options.json))
    return BAD_INPUT if run.history.refresh().cause in ("data", "model") else code


def _runs(options: argparse.Namespace) -> int:
    summaries = options.lab.store.summaries()
    if options.json:
        show_json(summaries)
        return 0
    for row in summaries:
        steps = f"{row['step']}/{row['steps']}"
        loss = f"loss {formatting.loss(row['loss'])}  eval {formatting.loss(row['eval_loss'])}"
        texts = "  ".join(one_line(row[key]) for key in ("name", "model", "modules"))
        show(f"{row['id']}  {row['state']:11} {steps:>12}  {loss}  {texts}{_reason(row)}")
    return 0


def _stop(options: argparse.Namespace) -> int:
    if not runs.is_open(options.lab, options.run):
        raise UserError(f"{options.run} has already ended.", "`runs` lists the queued and running ones.", "data")
    done = runs.stop(options.lab, options.run)
    if options.json:
        show_json({"id": options.run, "done": done}, indent=None)
    else:
        show(done)
    return 0


def _first(options: argparse.Namespace) -> int:
    runs.put_first(options.lab, options.run)
    return 0


def _rename(options: argparse.Namespace) -> int:
    options.lab.store.rename(options.run, options.name)
    return 0


def _delete(options: argparse.Namespace) -> int:
    store = options.lab.store
    if not options.yes:
        title = store.get(options.run).title
        raise UserError(
            f"This would delete “{title}” with its adapter and checkpoints.", "Confirm with --yes.", "data"
        )
    store.delete(options.run)
    return 0


def _resume(options: argparse.Namespace) -> int:
    if runs.is_experiment(options.run):
        if options.epochs:
            raise UserError("An experiment cannot be trained longer.", "Name one of its runs, or leave --epochs out.")
        return experiment_commands.resume_experiment(options)
    return _train_run(runs.resume_here(options.lab, options.run, options.epochs), options)


def _export(options: argparse.Namespace) -> int:
    written = _moved(exports.adapter(options.lab, options.run, options.runs_dir), options.output)
    if options.json:
        show_json({"id": options.run, "file": str(written)}, indent=None)
    else:
        show(written)
    return 0


def _moved(exported: Path, output: Path | None) -> Path:
    """The exported file where the user wants it: a file, a folder, or by default the current folder."""
    target = output or Path.cwd() / exported.name
    try:
        written = Path(shutil.move(exported, target / exported.name if target.is_dir() else target))
        file_modes.make_ordinary(written)
    except OSError as error:
        exported.unlink(missing_ok=True)
        raise UserError(
            f"{target} cannot be written: {error.strerror or error}.", "Name another file with -o.", "disk"
        ) from error
    return written


def _configuration(options: argparse.Namespace) -> Any:
    """The parsed JSON of the configuration file, else the default one, with the overrides of `--set`."""
    if options.config is None and not options.set:
        raise UserError("No configuration is named.", "Name its file, or write its settings as --set.", "data")
    value = validation.load_json(options.config) if options.config else RunConfig().to_json()
    return overrides.apply(value, overrides.from_options(options.set))


def _reason(row: dict[str, Any]) -> str:
    """Why a run failed, what of it is damaged, or that it may be hung, in a list."""
    has_reason = row["message"] and (row["state"] == "failed" or row["silent"] is not None)
    return f"  {one_line(row['message'], 200)}" if has_reason else ""
