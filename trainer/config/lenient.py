"""What can be used of a configuration that has problems, so that a person is told all of them at once.

`parsing` finds what is wrong with the configuration itself; what is wrong with it on its model takes a plan, and a
plan takes a configuration that can be used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from trainer.common.errors import InvalidConfig, Issue, UserError
from trainer.config.schema import RunConfig
from trainer.config.validation import from_json

HOPELESS = {"config", "schema", "model.name"}
"""Fields without which nothing can be said of the rest."""
_TICK = re.compile(r"modules\[(\d+)\](?:\.(\w+))?")


def checked(value: Any, look: Callable[[RunConfig], Sequence[Issue]]) -> RunConfig:
    """The configuration in parsed JSON.

    Where it has problems, raises InvalidConfig with all of them, and with those that `look` finds in the rest.
    """
    config, issues, places = mend(value)
    if config is not None and not issues:
        return config
    if config is not None:
        try:
            found = look(config)
        except UserError as error:
            found = [Issue("model.name", error.problem, error.fix)]
        none_left = not config.modules and value.get("modules")  # it is no news then that nothing is ticked
        issues += [_placed(issue, places) for issue in found if not (none_left and issue.field == "modules")]
    raise InvalidConfig(issues)


def mend(value: Any) -> tuple[RunConfig | None, list[Issue], list[int]]:
    """What can be used of parsed JSON, every problem of it, and the numbers that its ticks have in `value`.

    Defaults stand for what cannot be used; ticks that cannot are left out. None where nothing can be used.
    """
    issues: list[Issue] = []
    places = list(range(len(_ticks(value))))
    while True:
        try:
            return from_json(value), issues, places
        except InvalidConfig as error:
            found = error.issues
        issues += [_placed(issue, places) for issue in found]
        if HOPELESS & {issue.field for issue in found}:
            return None, issues, places
        mended, kept = _without(value, found)
        if mended == value:
            return None, issues, places
        value, places = mended, [places[number] for number in kept]


def _without(value: dict[str, Any], issues: Sequence[Issue]) -> tuple[dict[str, Any], list[int]]:
    """The values without those that have a problem, and the numbers of the ticks that are left."""
    mended = {key: dict(part) if isinstance(part, dict) else part for key, part in value.items()}
    ticks = [dict(tick) if isinstance(tick, dict) else tick for tick in _ticks(value)]
    lost: set[int] = set()
    for issue in issues:
        tick = _TICK.fullmatch(issue.field)
        number = int(tick[1]) if tick else 0
        path, _, name = issue.field.rpartition(".")
        part = mended.get(path) if path else mended
        if tick and number < len(ticks):
            if isinstance(ticks[number], dict) and tick[2] in ("r", "lora_alpha", "lr", "layers"):
                ticks[number].pop(tick[2], None)
            else:
                lost.add(number)
        elif isinstance(part, dict):
            part.pop(name.partition("[")[0], None)
            if issue.field == "data.path":
                part["source"] = "demo"
    kept = [number for number in range(len(ticks)) if number not in lost]
    return mended | ({"modules": [ticks[number] for number in kept]} if ticks else {}), kept


def _ticks(value: Any) -> list[Any]:
    ticks = value.get("modules") if isinstance(value, dict) else None
    return ticks if isinstance(ticks, list) else []


def _placed(issue: Issue, places: Sequence[int]) -> Issue:
    """An issue of a tick by the number that this has in the original."""
    tick = re.match(r"modules\[(\d+)", issue.field)
    if tick is None or int(tick[1]) >= len(places):  # a setting may be named like a tick that is not there
        return issue
    return replace(issue, field=f"modules[{places[int(tick[1])]}{issue.field[tick.end() :]}")
