"""The command line: everything that the page can do.

Exit codes: 0 done, 1 the run failed, 2 bad input (every problem is printed), 3 the run was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from trainer import __version__
from trainer.cli import data_commands, experiment_commands
from trainer.cli.progress import Progress
from trainer.common import devices, file_locks, formatting
from trainer.common.errors import InvalidConfig, Issue, UserError
from trainer.common.formatting import percent, size
from trainer.common.program import APP, COMMAND, HOME
from trainer.config import overrides, validation
from trainer.config.lenient import checked
from trainer.config.schema import ModelConfig, RunConfig, default_config
from trainer.data.readers.uploads import keep_data
from trainer.experiments.experiment import ID, OPEN, Experiments
from trainer.export.adapter_zip import adapter_zip
from trainer.models.base_model import BaseModels
from trainer.models.checkpoint_format import settle
from trainer.models.hub import Unreachable
from trainer.models.locations import load_config, load_tokenizer
from trainer.models.module_map import ModuleMap
from trainer.models.weight_files import no_tokenizer, nothing_yet
from trainer.planning import scenarios
from trainer.planning.plan import Plan, make_plan
from trainer.planning.schedule import Size
from trainer.runs import lifecycle
from trainer.runs.store import Run, RunStore

ABOUT = "Train LoRA adapters: everything that the page can do, from the command line."
BAD_INPUT = 2


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options, flags = parser.parse_known_args(arguments)
    options.flags = flags  # those of the page, which app.py reads
    if flags and options.command is not _app:
        parser.error(f"unrecognized arguments: {' '.join(flags)}")
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except InvalidConfig as error:
        for issue in error.issues:
            print(issue, file=sys.stderr)
    except UserError as error:
        print(error, file=sys.stderr)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader went away; there is nobody to tell
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

    page = commands.add_parser("app", help="start the page, which is used in a browser", add_help=False)
    page.set_defaults(command=_app)
    config = add("config", _config, "print a configuration to start from")
    config.add_argument("model", nargs="?", default="demo")
    config.add_argument(
        "--scenario", choices=[item.key for item in scenarios.SIX],
        help="the study's job with one of its six scenarios; without it: LoRA on the attention and MLP of the model",
    )  # fmt: skip
    modules = add("modules", _modules, "show the modules of a model, by group")
    modules.add_argument("model")
    modules.add_argument("--revision", default="main")
    modules.add_argument("--json", action="store_true")
    plan = add("plan", _plan, "show what a configuration would train, and what it costs")
    plan.add_argument("config", type=Path)
    plan.add_argument("--json", action="store_true")
    _add_changes(plan)
    data_commands.add_command(add)
    train = add("train", _train, "train a configuration here and now, and wait for its end")
    train.add_argument("config", type=Path)
    train.add_argument("--data-file", type=Path, help="train on this file instead of the configuration's data")
    train.add_argument("--json", action="store_true", help="print the run's events, one JSON object a line")
    _add_changes(train)
    _add_run_commands(add)
    experiment_commands.add_commands(add, _module_map, _plan_of)
    return parser


def _add_changes(command: argparse.ArgumentParser) -> None:
    about = "another value for a setting, such as training.max_steps=100; may be given several times"
    command.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help=about)


def _add_run_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    runs = add("runs", _runs, "list all runs")
    stop = add("stop", _stop, "stop a run or an experiment after the current step; again: kill it")
    add("first", _first, "put a queued run at the front of the queue").add_argument("run")
    rename = add("rename", _rename, "give a run another name")
    delete = add("delete", _delete, "remove a run with its adapter and checkpoints")
    resume = add("resume", _resume, "let a run or an experiment go on from its newest checkpoint, here and now")
    export = add("export", _export, "write a run's adapter as a zip")
    for command in (stop, rename, delete, resume, export):
        command.add_argument("run")
    rename.add_argument("name")
    delete.add_argument("--yes", action="store_true", help="delete it for good, without a question")
    for command in (runs, stop, resume, export):
        command.add_argument("--json", action="store_true")
    resume.add_argument("--epochs", type=float, default=0, help="train so many epochs more than before")
    export.add_argument("-o", "--output", type=Path, help="file to write (default: the working folder, its own name)")


def _app(options: argparse.Namespace) -> int:
    """Start the page, as `python app.py` does. It is run and not imported: the trainer knows no page."""
    folders = ["--runs-dir", str(options.runs_dir), "--models-dir", str(options.models_dir)]
    sys.argv = [APP, *folders, *options.flags]
    runpy.run_path(str(HOME / "app.py"), run_name="__main__")
    return 0


def _config(options: argparse.Namespace) -> int:
    """Without a scenario: ticks that fit the model, as the page starts with. With one, nothing is read.

    A hub model that cannot be reached now is given the study's names, which most models have.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError

    if options.scenario:
        chosen = scenarios.scenario(options.scenario)
        _print_json(scenarios.study_job(options.model, chosen).to_json())
        return 0
    config = default_config(options.model)
    try:
        found = _module_map(config.model, options.models_dir)
        config = settle(replace(config, modules=scenarios.starting_ticks(found)), found.checkpoint)
    except UserError as error:
        if not isinstance(error.__cause__, LocalEntryNotFoundError | Unreachable):
            raise
        config = replace(config, modules=scenarios.LORA)
        print(f"{error}\nThe study's seven names are ticked; `plan` says what they match.", file=sys.stderr)
    _print_json(config.to_json())
    return 0


def _modules(options: argparse.Namespace) -> int:
    found = _module_map(ModelConfig(name=options.model, revision=options.revision), options.models_dir)
    if options.json:
        _print_json(found.to_json())
        return 0
    print(f"{found.model}: {found.model_type}, {found.parameters:,} parameters, {found.layers} layers")
    if found.checkpoint:
        print(found.checkpoint.says())
    for kind in found.kinds:
        name = f"  {kind.name}" if kind.slice_of else kind.name
        shape = "×".join(map(str, kind.shape))
        size = f"({kind.parameters:,})" if kind.slice_of else f"{kind.parameters:,}"
        takes = ", ".join(kind.treatments) or "–"
        count = f"{len(kind.modules):4} × {shape:16} {size:>16}"
        print(f"  {kind.group:10} {name:32} {count}  {takes}  {kind.reason}".rstrip())
    return 0


def _plan(options: argparse.Namespace) -> int:
    config = checked(_configuration(options), lambda config: _plan_of(config, options.models_dir).issues)
    plan = _plan_of(config, options.models_dir, size=data_commands.known_size(config, options))
    if options.json:
        _print_json(plan.to_json())
    else:
        _print_plan(plan)
    return 0 if _can_plan(plan, config.model.name) else BAD_INPUT


def _can_plan(plan: Plan, name: str) -> bool:
    """Whether nothing is wrong but that the model's weights are not here yet: a config.json is enough for a plan."""
    absent = {nothing_yet(name), no_tokenizer(name)} if nothing_yet(name) in plan.issues else set()
    return not set(plan.issues) - absent


def _train(options: argparse.Namespace) -> int:
    store = RunStore(options.runs_dir)

    config = checked(_configuration(options), lambda config: _plan_of(config, options.models_dir).issues)
    if options.data_file:
        name = keep_data(options.data_file, options.runs_dir / "data")
        config = replace(config, data=replace(config.data, source="file", path=name))
    module_map = _module_map(config.model, options.models_dir)
    plan = _plan_of(config, options.models_dir, module_map)
    if plan.issues:
        raise InvalidConfig(plan.issues)
    data_commands.check_data(config, options)
    plan = _plan_of(config, options.models_dir, module_map, data_commands.known_size(config, options, look=True))
    for warning in plan.warnings:
        _print_issue(warning, sys.stderr)
    run = store.create(config, plan, "starting", file_locks.identity(os.getpid()))
    if options.json:
        print(json.dumps({"type": "run", "id": run.id, "folder": str(run.folder)}), flush=True)
    else:
        print(f"Run {run.id} in {run.folder}", flush=True)
    return _work(run, options)


def _work(run: Run, options: argparse.Namespace) -> int:
    from trainer.execution import worker

    os.environ["LAB_MODELS_DIR"] = str(options.models_dir.resolve())
    os.environ["LAB_DATA_DIR"] = str((options.runs_dir / "data").resolve())
    code = worker.work(run.folder, devices.devices(), echo=Progress(options.json))
    if code == worker.TAKEN:
        raise UserError("Another process trains this run already.", "Watch it with `runs`.", "data")
    return BAD_INPUT if run.history.refresh().cause in ("data", "model") else code


def _runs(options: argparse.Namespace) -> int:
    summaries = RunStore(options.runs_dir).summaries()
    if options.json:
        _print_json(summaries)
        return 0
    for row in summaries:
        steps = f"{row['step']}/{row['steps']}"
        loss = f"loss {formatting.loss(row['loss'])}  eval {formatting.loss(row['eval_loss'])}"
        print(f"{row['id']}  {row['state']:11} {steps:>12}  {loss}  {row['name']}  {row['model']}  {row['modules']}")
    return 0


def _stop(options: argparse.Namespace) -> int:
    store = RunStore(options.runs_dir)
    experiments, is_run = Experiments(store), not ID.fullmatch(options.run)
    states = [store.get(options.run).history.state] if is_run else experiments.states(experiments.get(options.run))
    if not set(states) & set(OPEN):
        raise UserError(f"{options.run} is over already.", "`runs` shows what waits or runs.", "data")
    done = lifecycle.stop_run(store.get(options.run)) if is_run else experiments.stop(options.run)
    print(json.dumps({"id": options.run, "done": done}) if options.json else done)
    return 0


def _first(options: argparse.Namespace) -> int:
    lifecycle.put_first(RunStore(options.runs_dir), options.run)
    return 0


def _rename(options: argparse.Namespace) -> int:
    RunStore(options.runs_dir).rename(options.run, options.name)
    return 0


def _delete(options: argparse.Namespace) -> int:
    store = RunStore(options.runs_dir)
    if not options.yes:
        title = store.get(options.run).title
        raise UserError(
            f"This would delete “{title}” with its adapter and checkpoints.", "Say so with --yes.", "data"
        )
    store.delete(options.run)
    return 0


def _resume(options: argparse.Namespace) -> int:
    if ID.fullmatch(options.run):
        if options.epochs:
            raise UserError("An experiment does not train longer.", "Name one of its runs, or leave --epochs out.")
        return experiment_commands.resume_experiment(options, lambda config: _plan_of(config, options.models_dir))
    run = RunStore(options.runs_dir).get(options.run)
    lifecycle.resume_run(run, "starting", file_locks.identity(os.getpid()), options.epochs)
    return _work(run, options)


def _export(options: argparse.Namespace) -> int:
    made = adapter_zip(RunStore(options.runs_dir).get(options.run), options.runs_dir)
    target = options.output or Path.cwd() / made.name
    try:
        shutil.move(made, target / made.name if target.is_dir() else target)
    except OSError as error:
        made.unlink(missing_ok=True)
        raise UserError(
            f"{target} cannot be written: {error.strerror or error}.", "Name another file with -o.", "disk"
        ) from error
    written = target / made.name if target.is_dir() else target
    print(json.dumps({"id": options.run, "file": str(written)}) if options.json else written)
    return 0


def _module_map(model: ModelConfig, models_dir: Path) -> ModuleMap:
    from trainer.models.discovery.discover import discover

    return discover(load_config(model, models_dir), model.name)


def _configuration(options: argparse.Namespace) -> Any:
    """The parsed JSON of the configuration file, with what `--set` changes in it."""
    return overrides.apply(validation.load_json(options.config), overrides.from_options(options.set))


def _plan_of(
    config: RunConfig, models_dir: Path, module_map: ModuleMap | None = None, size: Size | None = None
) -> Plan:
    vocabulary = load_tokenizer(config.model, models_dir).get_vocab() if config.model.new_tokens else ()
    module_map = module_map or _module_map(config.model, models_dir)
    plan = make_plan(config, module_map, devices.device(), vocabulary, size)
    return plan.on(_base_models(models_dir).examine(config.model, module_map))


@cache
def _base_models(models_dir: Path) -> BaseModels:
    return BaseModels(models_dir)


def _print_plan(plan: Plan) -> None:
    for receipt in plan.receipts:
        print(f"{receipt.tick:24} {receipt.treatment:5} {receipt.note}")
    print(f"{plan.trainable:,} of {plan.total:,} parameters train ({percent(plan.share)})")
    print(f"adapter: {size(plan.adapter_bytes)}")
    if plan.base.bytes:
        print(f"to download first: {size(plan.base.bytes)} in {plan.base.files} files")
    if plan.checkpoint:
        print(plan.checkpoint["says"])
    _print_memory(plan)
    print("picked for speed:")
    for name, reason in plan.levers.why.items():
        print(f"  {name:24} {reason}")
    print(f"steps: {plan.steps:,}" if plan.steps else "steps: known once the data are read")
    for issue in (*plan.warnings, *plan.issues):
        _print_issue(issue)


def _print_issue(issue: Issue, file: TextIO | None = None) -> None:
    """A problem, and below it the options that cure it."""
    print(issue, file=file)
    if issue.changes:
        print(f"    {overrides.as_options(issue.changes)}", file=file)


def _print_memory(plan: Plan) -> None:
    """The memory by item, what the device has, and what would fit."""
    print("memory at the peak, as an estimate:")
    for name, count in plan.memory.items():
        if count:
            print(f"  {name:24} {size(count):>9}")
    device = plan.device
    has = f", of {size(device.free)} free and {size(device.total)} in all" if device.total else ""
    print(f"  {'together':24} {size(plan.needed):>9}{has} on {device.name}")
    if plan.loading:
        print(f"  {'while it loads':24} {size(plan.loading):>9}")
    if plan.fits:
        batch, length = plan.fits["per_device_train_batch_size"], plan.fits["max_length"]
        found = [f"batch {batch} at this max_length"] * (batch > 0) + [f"max_length {length} at batch 1"] * (
            length > 0
        )
        print(f"largest that fits: {', '.join(found)}" if found else "nothing fits")


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))
