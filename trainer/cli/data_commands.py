"""The command `data`, and the progress bar for reading data."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trainer.cli import data_text
from trainer.cli.output import one_line, show, show_json, show_styled
from trainer.common.progress import ProgressMonitor
from trainer.config import overrides, validation
from trainer.config.schema import RunConfig, default_config
from trainer.service import data as data_service
from trainer.service.data import HUB_ID

UNUSABLE = 2


def add_command(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    about = "check a data file or a hub data set, and show what a model would learn from it"
    data = add("data", inspect_data, about)
    data.add_argument("files", nargs="+", metavar="FILE", help="files of one data set, or the id of a hub data set")
    data.add_argument(
        "--model", help="model whose tokenizer and template are used (default: the configuration's, demo)"
    )
    data.add_argument("--config", type=Path, help="configuration with all other settings")
    about = "another value for a setting, such as data.preference_rows=chosen; may be given several times"
    data.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help=about)
    data.add_argument("--max-length", type=int, help="maximum length of an example in tokens")
    data.add_argument("--show", type=int, default=0, metavar="N", help="show the first N examples, token by token")
    data.add_argument(
        "--test-mask", type=int, default=0, metavar="N", help="compare the first N examples with what a server does"
    )
    data.add_argument("--json", action="store_true")


def inspect_data(options: argparse.Namespace) -> int:
    """Print the report and examples. Returns UNUSABLE if there is nothing to train on."""
    lab, config = options.lab, _config(options)
    with progress_bar() as monitor:
        report = data_service.report(lab, config, monitor)
    if options.json:
        show_json(report)
    else:
        show(*data_text.report_lines(report))
    trainable = report["tokens"]["examples"] if report["tokens"] else 0
    colors = sys.stdout.isatty()
    for number in range(min(options.show, trainable)):
        show_styled(
            ("" if number else f"\n{data_text.legend(colors)}\n\n")
            + data_text.example_text(data_service.example(lab, config, str(number)), colors)
        )
    for number in range(min(options.test_mask, trainable)):
        show("\n" + data_text.mask_test_text(data_service.mask_test(lab, config, str(number))))
    return 0 if trainable else UNUSABLE


def _config(options: argparse.Namespace) -> RunConfig:
    """The configuration whose data are inspected. Raises UserError if a file does not exist."""
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
    return validation.from_json(overrides.apply(config.to_json(), overrides.from_options(options.set)))


@contextlib.contextmanager
def progress_bar() -> Iterator[ProgressMonitor]:
    """A progress bar that appears with the first progress, and only on a terminal."""
    bar: Any = None

    def show(stage: str, share: float) -> None:
        nonlocal bar
        if bar is None:
            quiet = not sys.stderr.isatty()
            bar = tqdm(total=100, disable=quiet, leave=False, bar_format="{desc}{bar}{n:3.0f} %")
        bar.set_description(one_line(stage), refresh=False)
        bar.n = share * 100
        bar.refresh()

    try:
        yield ProgressMonitor(show)
    finally:
        if bar is not None:
            bar.close()
