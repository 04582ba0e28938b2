"""Custom sets of scenarios, in one JSON file in the runs folder. The page's own presets are one of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainer.common import atomic, bounded_files, file_locks
from trainer.common.bounded_files import DamagedFile
from trainer.common.disk import write_failed
from trainer.common.errors import InvalidConfig, UserError
from trainer.config import validation
from trainer.config.schema import RunConfig, Tick
from trainer.planning.scenarios import SETS, Scenario, ScenarioSet
from trainer.runs.run import MAX_TITLE

FILE = "scenario-sets.json"
PRESETS = "Presets"
"""The set that holds the presets saved on the Train tab."""
MAX_SETS, MAX_SCENARIOS = 100, 50
MAX_BYTES = 16_000_000
FIX = "Fix the file, or move it away to start over."


class OwnSets:
    """Name -> scenarios. The file is read every time, so that command line and page see the same."""

    def __init__(self, runs_dir: Path) -> None:
        self._path = runs_dir / FILE

    def all(self) -> dict[str, tuple[Scenario, ...]]:
        """All sets, by name. Raises UserError if the file is damaged."""
        try:
            if not os.path.lexists(self._path):
                return {}
            value = bounded_files.read_json(self._path, MAX_BYTES)
            return {str(name): tuple(map(_scenario, items)) for name, items in value.items()}
        except DamagedFile as error:
            raise UserError(error.problem, FIX, "data") from error
        except (ValueError, KeyError, TypeError, AttributeError, InvalidConfig) as error:
            raise UserError(f"{FILE} is damaged.", FIX, "data") from error

    def find(self, name: str) -> ScenarioSet:
        """The built-in or own set with this name. Raises UserError if there is none."""
        for item in SETS:
            if item.key == name:
                return item
        sets = self.all()
        if name not in sets:
            known = ", ".join([*(item.key for item in SETS), *sets])
            raise UserError(f"There is no set {name[:60]!r}.", f"There are {known}.", "data")
        scenarios = sets[name]
        return ScenarioSet(name, name, f"Which scenario of “{name}” is worth its parameters?", lambda _: scenarios)

    def add(self, name: str, title: str, ticks: tuple[Tick, ...]) -> None:
        """Add a scenario to the set `name`, creating it if needed; a scenario with the same title is replaced.

        Raises UserError for invalid names or ticks, or a full disk.
        """
        name, title = _name(name, "set"), _name(title, "scenario")
        if name in {item.key for item in SETS}:
            raise UserError(f"“{name}” is a built-in set.", "Choose another name.", "data")
        if not ticks:
            raise UserError("Nothing is ticked.", "Tick the modules of this scenario on the Train tab first.", "data")
        _check(ticks)
        with self._alone():
            sets = self.all()
            kept = [item for item in sets.get(name, ()) if item.title != title]
            sets[name] = (*kept, Scenario(title, title, "", ticks))
            if len(sets) > MAX_SETS or len(sets[name]) > MAX_SCENARIOS:
                raise UserError(
                    f"There is room for {MAX_SETS} sets of {MAX_SCENARIOS} scenarios.", "Remove one first.", "data"
                )
            self._write(sets)

    def remove(self, name: str) -> None:
        """Remove the set `name`. Raises UserError if there is none."""
        with self._alone():
            sets = self.all()
            if sets.pop(name, None) is None:
                raise UserError(f"There is no set {name[:60]!r}.", "Choose one from the list.", "data")
            self._write(sets)

    def remove_scenario(self, name: str, title: str) -> None:
        """Remove a scenario of the set `name`, and the set with its last one. Raises UserError if there is none."""
        with self._alone():
            sets = self.all()
            kept = [item for item in sets.get(name, ()) if item.title != title]
            if len(kept) == len(sets.get(name, ())):
                raise UserError(f"There is no “{title[:60]}” in {name[:60]!r}.", "Choose one from the list.", "data")
            sets[name] = tuple(kept)
            self._write({key: items for key, items in sets.items() if items})

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with file_locks.turn(self._path.with_name(f".{FILE}.lock"), 5.0) as ours:
            if not ours:
                raise UserError("Another program is changing the sets.", "Try again in a moment.", "data")
            yield

    def _write(self, sets: dict[str, tuple[Scenario, ...]]) -> None:
        value = {
            name: [{"title": item.title, "modules": [asdict(tick) for tick in item.modules]} for item in items]
            for name, items in sets.items()
        }
        try:
            atomic.write_json(self._path, value)
        except OSError as error:
            raise write_failed(error) from error


def _scenario(value: dict[str, Any]) -> Scenario:
    title, ticks = value["title"], validation.from_json({"modules": value["modules"]}).modules
    return Scenario(_name(title, "scenario"), title, "", ticks)


def _check(ticks: tuple[Tick, ...]) -> None:
    issues = validation.validate(RunConfig(modules=ticks))
    if issues:
        raise InvalidConfig(issues)


def _name(text: str, what: str) -> str:
    """Validate a name: one line of limited length."""
    name = " ".join(text.split())
    if not name or len(name) > MAX_TITLE or not name.isprintable():
        raise UserError(f"The {what} needs a name of at most {MAX_TITLE} characters.", "Enter one.", "data")
    return name
