"""The command `attribute`: what each module of a run earned."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from trainer.cli.data_commands import progress_bar
from trainer.cli.output import show, show_json
from trainer.common.formatting import percent
from trainer.service import attribution
from trainer.service.attribution import Attribution


def add_command(add: Callable[..., argparse.ArgumentParser]) -> None:
    command = add("attribute", _attribute, "measure what each module of a run earned of its gain")
    command.add_argument("run")
    command.add_argument("--json", action="store_true")


def _attribute(options: argparse.Namespace) -> int:
    with progress_bar() as monitor:
        found = attribution.measure_here(options.lab, options.run, monitor)
    if options.json:
        show_json(attribution.to_json(found))
    else:
        show(*attribution.sentences(found), "", *_by_kind(found), "", *_by_layer(found))
    return 0


def _by_kind(found: Attribution) -> list[str]:
    rows = attribution.by_kind(found)
    width = max(len("kind"), *(len(row.name) for row in rows))
    titles = f"{'loss without it':>18}  {'gain of it alone':>18}  output energy"
    return [f"{'kind':{width}}  trained  modules  share of gain  {titles}"] + [
        f"{row.name:{width}}  {row.treatment:7}  {row.modules:7}  {row.text:>13}  {row.off.text:>18}  "
        f"{row.only.text:>18}  {'–' if row.output is None else percent(row.output):>13}"
        for row in rows
    ]


def _by_layer(found: Attribution) -> list[str]:
    return ["layer    modules  share of gain"] + [
        f"{row.name or 'outside':7}  {row.modules:7}  {row.text:>13}" for row in attribution.by_layer(found)
    ]
