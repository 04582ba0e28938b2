"""The commands `attribute` and `cut`: what each module of a run earned, and its adapter with lower ranks."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from trainer.cli.data_commands import progress_bar
from trainer.cli.output import show, show_json
from trainer.common.formatting import loss, percent
from trainer.service import attribution
from trainer.service.attribution import Attribution, CutDown


def add_commands(add: Callable[..., argparse.ArgumentParser], write_zip: Callable[..., Path]) -> None:
    """`write_zip`: moves an exported zip to where the user wants it."""
    command = add("attribute", _attribute, "measure what each module of a run earned of its gain")
    cut = add("cut", _cut, "show what a run's adapter loses with lower ranks, or write it with them as a zip")
    cut.add_argument(
        "--keep", type=float, metavar="SHARE", help="write it with this share of its energy, such as 0.95"
    )
    cut.add_argument("-o", "--output", type=Path, help="file to write (default: named after the run)")
    cut.set_defaults(write_zip=write_zip)
    for sub in (command, cut):
        sub.add_argument("run")
        sub.add_argument("--json", action="store_true")


def _attribute(options: argparse.Namespace) -> int:
    with progress_bar() as monitor:
        attribution.measure_here(options.lab, attribution.ATTRIBUTION, options.run, monitor)
    found = attribution.read(options.lab, options.run)
    assert found is not None
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


def _cut(options: argparse.Namespace) -> int:
    if options.keep is not None:
        file = options.write_zip(
            attribution.export_cut(options.lab, options.run, options.keep, options.runs_dir), options.output
        )
        if options.json:
            show_json({"id": options.run, "file": str(file)}, indent=None)
        else:
            show(file)
        return 0
    with progress_bar() as monitor:
        attribution.measure_here(options.lab, attribution.CUT_DOWN, options.run, monitor)
    found = attribution.read_cut_down(options.lab, options.run)
    assert found is not None
    if options.json:
        show_json(attribution.cut_to_json(found))
    else:
        show(*attribution.cut_sentences(found), "", *_levels(found))
    return 0


def _levels(found: CutDown) -> list[str]:
    titles = f"{'parameters':>14}  {'loss':>8}  {'over the whole':>18}  forgetting"
    return [f"energy  modules  rank in all  {titles}"] + [
        f"{percent(level.kept):>6}  {level.modules:7}  {level.rank:11,}  {level.parameters:14,}  "
        f"{loss(level.loss):>8}  {level.rise.text if level.kept < 1 else '':>18}  {loss(level.forgetting):>10}"
        for level in attribution.levels(found)
    ]
