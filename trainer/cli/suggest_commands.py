"""The command `suggest`: rules at once, then a race of selections with a live table, which Ctrl+C ends early."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trainer.cli.data_commands import progress_bar
from trainer.cli.output import one_line, show, show_json, show_styled
from trainer.common import atomic, file_modes, formatting
from trainer.common.errors import UserError
from trainer.common.plain_text import visible
from trainer.common.program import COMMAND
from trainer.config import overrides, validation
from trainer.service import data, suggestions

STOPPED = 3
HEADER = ("", "selection", "", "loss", "behind the best", "rate", "s/step", "trainable", "r")


def add_command(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    suggest = add("suggest", run_suggest, "race selections on your model and data, and say which one to train")
    suggest.add_argument("config", type=Path, help="configuration file; its ticks are one of the selections")
    suggest.add_argument("--minutes", type=float, default=10, help="how long to race after loading (default: 10)")
    suggest.add_argument("-o", "--output", type=Path, help="write the recommended configuration to this file")
    suggest.add_argument("--json", action="store_true", help="print the rules and the result as JSON")
    about = "override a setting, such as training.max_length=256; may be repeated"
    suggest.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help=about)


def run_suggest(options: argparse.Namespace) -> int:
    lab = options.lab
    value = overrides.apply(validation.load_json(options.config), overrides.from_options(options.set))
    config = validation.from_json(value)
    table = LiveTable(quiet=options.json)
    with progress_bar() as monitor:
        data.read_if_quick(lab, config, monitor)
        rules = suggestions.rules(lab, config)
        if not options.json:
            show(*(["By rule:", *(f"  {rule}" for rule in rules)] if rules else ["By rule: nothing to say."]))
            show("By race: Ctrl+C ends it with the answer so far.")
        found = suggestions.race(lab, config, options.minutes, table, monitor)
    table.close()
    if options.json:
        show_json(found | {"rules": rules})
    else:
        show(*answer_lines(found))
    if options.output and found["answer"]:
        _write(options.output, found["answer"]["config"])
    return STOPPED if found["state"] == suggestions.STOPPED else 0


def answer_lines(found: dict[str, Any]) -> list[str]:
    """The answer of a race in sentences."""
    if not found["answer"]:
        return [found["message"]]
    answer, rungs = found["answer"], found["rungs"]
    lines = [answer["sentence"], answer["rate"]]
    if not answer["shown"]:
        lines.append("More minutes may tell the finalists apart; runs under equal conditions can be compared with "
                     f"`{COMMAND} scenarios`.")  # fmt: skip
    steps = ", ".join(f"{rung['arms']} selections with {rung['steps']} steps" for rung in rungs)
    return [*lines, f"Rungs: {steps}. Each was scored on up to {rungs[-1]['rows']} held-out rows."]


class LiveTable:
    """Shows the states of a race: a table that is redrawn on a terminal, elsewhere a line for every rung."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._live = quiet, sys.stdout.isatty()
        self._lines = self._rungs = 0
        self._message = ""
        self._last: dict[str, Any] = {}

    def __call__(self, state: dict[str, Any]) -> None:
        self._last = state
        if self._quiet:
            return
        if self._live and "arms" in state:
            self._draw(self._table(state))
        elif state["message"] and state["message"] != self._message:
            self._message = state["message"]
            show(self._message)
        elif len(state.get("rungs", ())) > self._rungs:
            self._rungs += 1
            rung = state["rungs"][-1]
            left = formatting.duration(state["seconds_left"])
            of = f"Rung {self._rungs} of {len(state['sizes'])}"
            show(f"{of}: {rung['arms']} selections, {rung['steps']} steps each, {left} left")

    def close(self) -> None:
        """The whole table, once."""
        if not self._quiet and "arms" in self._last and not self._live:
            show(*table_lines(self._last["arms"]))

    def _table(self, state: dict[str, Any]) -> list[str]:
        size = shutil.get_terminal_size()
        left = formatting.duration(state["seconds_left"])
        doing = f"{state['doing']}, {left} left" if state["doing"] else ""
        lines = [*table_lines(state["arms"])[: max(2, size.lines - 3)], doing]
        return [line[: size.columns - 1] for line in lines]

    def _draw(self, lines: Sequence[str]) -> None:
        back = f"\x1b[{self._lines}F\x1b[J" if self._lines else ""
        show_styled(back + "\n".join(visible(line) for line in lines))
        self._lines = len(lines)


def table_lines(arms: Sequence[dict[str, Any]]) -> list[str]:
    """The ranking as a table, then what took no part and why."""
    rows = [HEADER, *(_cells(arm) for arm in arms if arm["state"] not in (suggestions.LEFT_OUT, suggestions.FAILED))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = [
        "  ".join(
            text.ljust(width) if place in (1, 2) else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    absent = [arm for arm in arms if arm["state"] in (suggestions.LEFT_OUT, suggestions.FAILED)]
    return [*lines, *(f"    {one_line(arm['title'])}: {arm['state']}, {one_line(arm['note'])}" for arm in absent)]


def _cells(arm: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table, as HEADER."""
    place = arm["place"]
    state = f"out in rung {arm['rung']}" if arm["state"] == suggestions.OUT else arm["state"]
    if place is None:
        return ("", one_line(arm["title"]), state, *[""] * 4, formatting.count(arm["trainable"]), str(arm["r"] or ""))
    gap = arm["gap"]
    behind = "" if gap is None else f"{gap:.4f} [{arm['low']:.4f}, {arm['high']:.4f}]"
    return (
        str(place),
        one_line(arm["title"]),
        state,
        "diverged" if arm["loss"] is None else formatting.loss(arm["loss"]),
        behind,
        formatting.learning_rate(arm["learning_rate"]),
        f"{arm['step_seconds']:.3g}",
        formatting.count(arm["trainable"]),
        str(arm["r"] or ""),
    )


def _write(path: Path, config: dict[str, Any]) -> None:
    try:
        atomic.write(path, json.dumps(config, ensure_ascii=False, indent=2) + "\n")
        file_modes.make_ordinary(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}.", "Name another file with -o."
        ) from error
    show(f"Configuration: {path}", file=sys.stderr)
