"""JSON -> RunConfig, and all problems of a RunConfig at once.

Strict: unknown keys (with a suggestion), wrong types and other schema numbers are rejected. Whatever pydantic rejects
is removed and the rest validated again, so that the user sees all problems at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.common import bounded_files
from trainer.common.bounded_files import DamagedFile
from trainer.common.errors import InvalidConfig, Issue, UserError
from trainer.common.program import COMMAND
from trainer.config import messages, rules
from trainer.config.schema import SCHEMA, RunConfig, TrainingConfig

if TYPE_CHECKING:
    from pydantic import TypeAdapter

MAX_CONFIG_BYTES = 1_000_000
Place = tuple[int | str, ...]
"""Path to a value: keys and list indices."""
Removed = dict[str, list[int]]
"""Indices of the items that were removed from a list, by the list's path."""
ESSENTIAL: set[Place] = {(), ("schema",), ("model", "name")}
"""Values without which the rest cannot be validated."""
_SWITCHES = {field.name for field in fields(TrainingConfig) if field.type == "Switch"}


def load(path: Path) -> RunConfig:
    """Read a configuration file. Raises UserError (not JSON) or InvalidConfig (not a configuration)."""
    return from_json(load_json(path))


def load_json(path: Path) -> Any:
    """The parsed JSON of a configuration file. Raises UserError if it is not JSON."""
    try:
        text = bounded_files.read(path, MAX_CONFIG_BYTES).decode()
    except DamagedFile as error:
        raise UserError(error.problem, "Name a JSON file of a run.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} is not UTF-8 text.", "Name a JSON file of a run.") from error
    return _json(text, path.name)


def loads(text: str) -> RunConfig:
    """Like `load`, from a string."""
    return from_json(_json(text, "The configuration"))


def from_json(value: Any) -> RunConfig:
    """A RunConfig from parsed JSON. Raises InvalidConfig with all problems that can be found without the model."""
    config, issues, _ = repair(value)
    if config is None or issues:
        raise InvalidConfig(issues)
    return config


def validate(config: RunConfig) -> list[Issue]:
    """All problems that can be found without the model: bounds, duplicates, contradictions."""
    return repair(config.to_json())[1]


def checked(value: Any, more: Callable[[RunConfig], Sequence[Issue]]) -> RunConfig:
    """The configuration in parsed JSON.

    Raises InvalidConfig with all its problems, if any, and those that `more` finds in the valid rest.
    """
    config, issues, removed = repair(value)
    if config is not None and not issues:
        return config
    if config is not None:
        try:
            others = more(config)
        except UserError as error:
            others = [Issue("model.name", error.problem, error.fix)]
        none_left = not config.modules and value.get("modules")  # then "nothing is ticked" is not news
        issues += [_placed(issue, removed) for issue in others if not (none_left and issue.field == "modules")]
    raise InvalidConfig(issues)


def repair(value: Any) -> tuple[RunConfig | None, list[Issue], Removed]:
    """The valid part of parsed JSON as a configuration, all problems, and the list items that were removed.

    Invalid settings are replaced by their defaults. None if nothing can be used.
    """
    if isinstance(value, dict) and value.get("schema", SCHEMA) != SCHEMA:
        problem = f"{messages.show(value['schema'])} is not a schema that this version reads."
        return None, [Issue("schema", problem, f"Use {SCHEMA}.")], {}
    value = _copied(value)
    issues: list[Issue] = []
    removed: Removed = {}
    while True:
        config, found = _read(value)
        if config is not None and not found:
            return config, issues, removed
        known, places = {issue.field for issue in issues}, [place for place, _ in found]
        new = [issue for issue in (_placed(issue, removed) for _, issue in found) if issue.field not in known]
        issues += new
        if ESSENTIAL.intersection(places) or not new:
            return None, issues, removed
        _drop(value, places, removed)


@cache
def _adapter() -> TypeAdapter[RunConfig]:
    from pydantic import TypeAdapter  # importing it takes a tenth of a second

    return TypeAdapter(RunConfig)


def _read(value: Any) -> tuple[RunConfig | None, list[tuple[Place, Issue]]]:
    """The configuration, or its problems with their paths."""
    from pydantic import ValidationError

    try:
        config = _adapter().validate_python(value)
    except ValidationError as error:
        return None, [(item["loc"], messages.issue(item)) for item in error.errors(include_url=False)]
    return config, [(_place(issue.field), issue) for issue in rules.check(config)]


def _copied(value: Any) -> Any:
    """A mutable copy. 3.0 becomes 3, and true becomes on, as in older runs."""

    def part(item: Any) -> Any:
        return {_key(name): setting(name, old) for name, old in item.items()} if isinstance(item, dict) else item

    def setting(name: str, old: Any) -> Any:
        if isinstance(old, bool) and name in _SWITCHES:
            return "on" if old else "off"
        return int(old) if isinstance(old, float) and old.is_integer() else old

    if not isinstance(value, dict):
        return value
    return {
        _key(key): [part(tick) for tick in item] if isinstance(item, list) else part(item)
        for key, item in value.items()
    }


def _key(name: str) -> str:
    """A key without lone surrogates, for which pydantic would reject the whole object."""
    return name.encode("utf-8", "replace").decode()


def _drop(value: dict[str, Any], places: Sequence[Place], removed: Removed) -> None:
    """Remove invalid settings from `value`, and record removed list items in `removed`."""
    dropped: dict[str, set[int]] = {}
    for place in places:
        match place:
            case ("modules", int(number), ("r" | "lora_alpha" | "lr" | "layers") as name):
                value["modules"][number].pop(str(name), None)
            case ("modules", int(number), *_):
                dropped.setdefault("modules", set()).add(number)
            case ("model", "new_tokens", int(number)):
                dropped.setdefault("model.new_tokens", set()).add(number)
            case (str(name),):
                value.pop(name, None)
            case (str(part), str(name), *_):
                value[part].pop(name, None)
                if (part, name) == ("data", "path"):
                    value[part]["source"] = "demo"
    for path, gone in dropped.items():
        holder, key = (value, path) if path == "modules" else (value["model"], "new_tokens")
        holder[key] = [item for number, item in enumerate(holder[key]) if number not in gone]
        before = removed.get(path, [])
        removed[path] = sorted({*before, *(_original(number, before) for number in gone)})


def _original(number: int, removed: Sequence[int]) -> int:
    """The index that an item had before the items with the (sorted) indices `removed` were removed."""
    for gone in removed:
        number += number >= gone
    return number


def _place(field: str) -> Place:
    return tuple(int(part) if part.isdecimal() else part for part in re.findall(r"[^.\[\]]+", field))


def _placed(issue: Issue, removed: Removed) -> Issue:
    """An issue with the original index of its list item."""
    item = re.match(r"(modules|model\.new_tokens)\[(\d{1,6})\]", issue.field)
    if item is None:
        return issue
    number = _original(int(item[2]), removed.get(item[1], []))
    return replace(issue, field=f"{item[1]}[{number}]{issue.field[item.end() :]}")


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _object(pairs, text))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{name} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}.",
            f"Correct it there, or start from `{COMMAND} config`.",
        ) from error
    except (RecursionError, ValueError) as error:
        raise UserError(f"{name} is not valid JSON: {_reason(error)}.", f"Start from `{COMMAND} config`.") from error


def _object(pairs: list[tuple[str, Any]], text: str) -> dict[str, Any]:
    """A JSON object as a dict. Raises ValueError for a duplicate key, which json would accept."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            name = json.dumps(key, ensure_ascii=False)
            lines = [str(number) for number, line in enumerate(text.splitlines(), 1) if name in line]
            where = f" (lines {', '.join(lines)})" if 1 < len(lines) < 10 else ""
            raise ValueError(f"{name[:80]} is named twice in one object{where}")
        result[key] = value
    return result


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)[:200] or type(error).__name__
