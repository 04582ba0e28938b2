"""The command `data`, and the progress bar while data are read."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trainer.cli import data_text
from trainer.common.errors import InvalidConfig
from trainer.common.progress import ProgressMonitor
from trainer.config import validation
from trainer.config.schema import RunConfig, default_config
from trainer.service import data as data_service
from trainer.service.data import HUB_ID

UNUSABLE = 2


def add_command(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    about = "check a data file, or a data set of the hub, and show what a model would learn from it"
    data = add("data", look_at, about)
    data.add_argument("files", nargs="+", metavar="FILE", help="files of one data set, or the id of one on the hub")
    data.add_argument(
        "--model", help="model whose tokenizer and template are used (default: the configuration's, demo)"
    )
    data.add_argument("--config", type=Path, help="take all other settings from this configuration")
    data.add_argument("--max-length", type=int, help="tokens beyond which an example is cut")
    data.add_argument("--show", type=int, default=0, metavar="N", help="show the first N examples, token by token")
    data.add_argument("--json", action="store_true")


def look_at(options: argparse.Namespace) -> int:
    """Print the report and examples. Returns UNUSABLE where nothing can be trained on."""
    lab, config = options.lab, _config(options)
    with progress_bar() as monitor:
        found = data_service.report(lab, config, monitor)
    if options.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        print("\n".join(data_text.report_lines(found)))
    trainable = found["tokens"]["examples"] if found["tokens"] else 0
    colors = sys.stdout.isatty()
    for number in range(min(options.show, trainable)):
        print(
            ("" if number else f"\n{data_text.legend(colors)}\n\n")
            + data_text.example_text(data_service.example(lab, config, str(number)), colors)
        )
    return 0 if trainable else UNUSABLE


def _config(options: argparse.Namespace) -> RunConfig:
    """The configuration that `data` looks at. Raises UserError where there is no such file."""
    config = validation.load(options.config) if options.config else default_config(options.model or "demo")
    if Path(options.files[0]).exists() or not HUB_ID.fullmatch(options.files[0]):
        names = " ".join(data_service.add(options.lab, Path(file)) for file in options.files)
        data = replace(config.data, source="file", path=names)
    else:
        data = replace(config.data, source="hub", path=options.files[0])
    training = replace(config.training, max_length=options.max_length or config.training.max_length)
    config = replace(
        config, model=replace(config.model, name=options.model or config.model.name), data=data, training=training
    )
    issues = validation.validate(config)
    if issues:
        raise InvalidConfig(issues)
    return config


@contextlib.contextmanager
def progress_bar() -> Iterator[ProgressMonitor]:
    """A progress bar from the first progress on, where a person looks at it."""
    bar: Any = None

    def show(stage: str, share: float) -> None:
        nonlocal bar
        if bar is None:
            quiet = not sys.stderr.isatty()
            bar = tqdm(total=100, disable=quiet, leave=False, bar_format="{desc}{bar}{n:3.0f} %")
        bar.set_description(stage, refresh=False)
        bar.n = share * 100
        bar.refresh()

    try:
        yield ProgressMonitor(show)
    finally:
        if bar is not None:
            bar.close()
