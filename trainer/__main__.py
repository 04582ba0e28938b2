"""python -m trainer: everything that the page can do, from the command line.

Exit codes: 0 done, 1 the run failed, 2 bad input (every problem is printed), 3 the run was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer import control, devices, events, locks, pace, parsing, scenarios
from trainer.config import ModelConfig, RunConfig, default_config
from trainer.errors import InvalidConfig, UserError
from trainer.export import adapter_zip
from trainer.models import HUB_ID, load_config, load_tokenizer
from trainer.modules import ModuleMap
from trainer.plan import Plan, make_plan
from trainer.runs import Run, RunStore
from trainer.uploads import keep_data

BAD_INPUT = 2


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
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
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__.split("\n")[0])
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument("--models-dir", type=Path, default=Path("models"), help="folder of models (default: models)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], int], about: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about)
        sub.set_defaults(command=command)
        return sub

    config = add("config", _config, "print a configuration to start from")
    config.add_argument("model", nargs="?", default="demo")
    config.add_argument("--scenario", choices=[item.key for item in scenarios.SIX], default="5")
    modules = add("modules", _modules, "show the modules of a model, by group")
    modules.add_argument("model")
    modules.add_argument("--revision", default="main")
    modules.add_argument("--json", action="store_true")
    plan = add("plan", _plan, "show what a configuration would train, and what it costs")
    plan.add_argument("config", type=Path)
    plan.add_argument("--json", action="store_true")
    data = add(
        "data", _data, "check a data file, or a data set of the hub, and show what a model would learn from it"
    )
    data.add_argument("files", nargs="+", metavar="FILE", help="files of one data set, or the id of one on the hub")
    data.add_argument(
        "--model", help="model whose tokenizer and template are used (default: the configuration's, demo)"
    )
    data.add_argument("--config", type=Path, help="take all other settings from this configuration")
    data.add_argument("--max-length", type=int, help="tokens beyond which an example is cut")
    data.add_argument("--show", type=int, default=0, metavar="N", help="show the first N examples, token by token")
    data.add_argument("--json", action="store_true")
    train = add("train", _train, "train a configuration here and now, and wait for its end")
    train.add_argument("config", type=Path)
    train.add_argument("--data-file", type=Path, help="train on this file instead of the configuration's data")
    runs = add("runs", _runs, "list all runs")
    runs.add_argument("--json", action="store_true")
    for name, command, about in (
        ("stop", _stop, "stop a run after its current step; a second time kills it"),
        ("first", _first, "put a queued run at the front of the queue"),
        ("export", _export, "write a run's adapter as a zip into the working folder"),
    ):
        add(name, command, about).add_argument("run")
    resume = add("resume", _resume, "let a run that is over go on from its newest checkpoint, here and now")
    resume.add_argument("run")
    resume.add_argument("--epochs", type=float, default=0, help="train so many epochs more than before")
    return parser


def _config(options: argparse.Namespace) -> int:
    chosen = scenarios.scenario(options.scenario)
    _print_json(replace(default_config(options.model), modules=chosen.modules).to_json())
    return 0


def _modules(options: argparse.Namespace) -> int:
    found = _module_map(ModelConfig(name=options.model, revision=options.revision), options.models_dir)
    if options.json:
        _print_json(found.to_json())
        return 0
    print(f"{found.model}: {found.model_type}, {found.parameters:,} parameters, {found.layers} layers")
    for kind in found.kinds:
        name = f"  {kind.name}" if kind.slice_of else kind.name
        shape = "×".join(map(str, kind.shape))
        size = f"({kind.parameters:,})" if kind.slice_of else f"{kind.parameters:,}"
        takes = ", ".join(kind.treatments) or "–"
        count = f"{len(kind.modules):4} × {shape:16} {size:>16}"
        print(f"  {kind.group:10} {name:32} {count}  {takes}  {kind.reason}".rstrip())
    return 0


def _plan(options: argparse.Namespace) -> int:
    plan = _plan_of(parsing.load(options.config), options.models_dir)
    if options.json:
        _print_json(plan.to_json())
    else:
        _print_plan(plan)
    return BAD_INPUT if plan.issues else 0


def _data(options: argparse.Namespace) -> int:
    from trainer.data import served, told

    config, places = _data_config(options), (options.models_dir, options.runs_dir / "data")
    found = pace.with_pace(
        served.data_report(config, *places),
        pace.tokens_per_second(RunStore(options.runs_dir), config.model.name),
    )
    if options.json:
        _print_json(found)
    else:
        print("\n".join(told.report_lines(found)))
    trainable = found["tokens"]["examples"] if found["tokens"] else 0
    colours = sys.stdout.isatty()
    for number in range(min(options.show, trainable)):
        print(
            ("" if number else f"\n{told.legend(colours)}\n\n")
            + told.example_text(served.data_example(config, str(number), *places), colours)
        )
    return 0 if trainable else BAD_INPUT


def _data_config(options: argparse.Namespace) -> RunConfig:
    """The configuration that `data` looks at. Raises UserError where there is no such file."""
    config = parsing.load(options.config) if options.config else default_config(options.model or "demo")
    if Path(options.files[0]).exists() or not HUB_ID.fullmatch(options.files[0]):
        names = " ".join(keep_data(Path(file), options.runs_dir / "data") for file in options.files)
        data = replace(config.data, source="file", path=names)
    else:
        data = replace(config.data, source="hub", path=options.files[0])
    training = replace(config.training, max_length=options.max_length or config.training.max_length)
    config = replace(
        config, model=replace(config.model, name=options.model or config.model.name), data=data, training=training
    )
    issues = parsing.validate(config)
    if issues:
        raise InvalidConfig(issues)
    return config


def _train(options: argparse.Namespace) -> int:
    config = parsing.load(options.config)
    if options.data_file:
        name = keep_data(options.data_file, options.runs_dir / "data")
        config = replace(config, data=replace(config.data, source="file", path=name))
    plan = _plan_of(config, options.models_dir)
    if plan.issues:
        raise InvalidConfig(plan.issues)
    run = RunStore(options.runs_dir).create(config, plan, "starting", locks.identity(os.getpid()))
    print(f"Run {run.id} in {run.folder}", flush=True)
    return _work(run, options)


def _work(run: Run, options: argparse.Namespace) -> int:
    from trainer import worker

    os.environ["LAB_MODELS_DIR"] = str(options.models_dir.resolve())
    os.environ["LAB_DATA_DIR"] = str((options.runs_dir / "data").resolve())
    code = worker.work(run.folder, devices.devices()[0], echo=_print_event)
    if code == worker.TAKEN:
        raise UserError("Another process trains this run already.", "Watch it with `runs`.", "data")
    return code


def _print_event(event: events.Event) -> None:
    if event["type"] == "metrics":
        print(f"step {event['step']:6}  loss {_figure(event['loss'])}  lr {event['learning_rate']:.3g}", flush=True)
    elif event["type"] == "eval":
        print(f"step {event['step']:6}  eval loss {_figure(event['eval_loss'])}", flush=True)
    elif event["type"] == "log":
        print(event["text"], flush=True)
    elif event["type"] == "state":
        print(" ".join(str(event.get(key) or "") for key in ("state", "message")).strip(), flush=True)


def _runs(options: argparse.Namespace) -> int:
    summaries = RunStore(options.runs_dir).summaries()
    if options.json:
        _print_json(summaries)
        return 0
    for row in summaries:
        steps = f"{row['step']}/{row['steps']}"
        loss = f"loss {_figure(row['loss'])}  eval {_figure(row['eval_loss'])}"
        print(f"{row['id']}  {row['state']:11} {steps:>12}  {loss}  {row['model']}  {row['modules']}")
    return 0


def _stop(options: argparse.Namespace) -> int:
    print(control.stop_run(RunStore(options.runs_dir).get(options.run)))
    return 0


def _first(options: argparse.Namespace) -> int:
    control.put_first(RunStore(options.runs_dir), options.run)
    return 0


def _resume(options: argparse.Namespace) -> int:
    run = RunStore(options.runs_dir).get(options.run)
    control.resume_run(run, "starting", locks.identity(os.getpid()), options.epochs)
    return _work(run, options)


def _export(options: argparse.Namespace) -> int:
    path = adapter_zip(RunStore(options.runs_dir).get(options.run), options.runs_dir)
    print(shutil.move(path, Path.cwd() / path.name))
    return 0


def _module_map(model: ModelConfig, models_dir: Path) -> ModuleMap:
    from trainer.discover import discover

    return discover(load_config(model, models_dir), model.name)


def _plan_of(config: RunConfig, models_dir: Path) -> Plan:
    tokens = len(load_tokenizer(config.model, models_dir)) if config.model.new_tokens else 0
    return make_plan(config, _module_map(config.model, models_dir), devices.has_gpu(), tokens)


def _print_plan(plan: Plan) -> None:
    for receipt in plan.receipts:
        print(f"{receipt.tick:24} {receipt.treatment:5} {receipt.note}")
    print(f"{plan.trainable:,} of {plan.total:,} parameters train ({plan.share:.2%})")
    print(f"adapter: {plan.adapter_bytes / 2**20:,.1f} MiB")
    print(f"memory:  {sum(plan.memory.values()) / 2**30:,.2f} GiB, as an estimate")
    for issue in (*plan.warnings, *plan.issues):
        print(issue)


def _figure(value: Any) -> str:
    return "–" if value is None else f"{value:.4f}"


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))


if __name__ == "__main__":
    sys.exit(main())
