"""JSON -> RunConfig, and every problem of a RunConfig at once.

Reading is strict: unknown keys, wrong types and foreign schema numbers are refused, each with the nearest name that
exists. What pydantic refuses is left out and the rest read again, so that a person sees every problem at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.common.errors import InvalidConfig, Issue, UserError
from trainer.common.program import COMMAND
from trainer.config import messages, rules
from trainer.config.schema import SCHEMA, RunConfig, TrainingConfig

if TYPE_CHECKING:
    from pydantic import TypeAdapter

MAX_CONFIG_BYTES = 1_000_000
Place = tuple[int | str, ...]
"""Keys and numbers that lead to a value."""
Removed = dict[str, list[int]]
"""Numbers of the items that were taken out of a list, by the list's path."""
HOPELESS: set[Place] = {(), ("schema",), ("model", "name")}
"""Places without which nothing can be said of the rest."""
_SWITCHES = {field.name for field in fields(TrainingConfig) if field.type == "Switch"}


def load(path: Path) -> RunConfig:
    """Read a configuration file. Raises UserError (no JSON) or InvalidConfig (not a configuration)."""
    return from_json(load_json(path))


def load_json(path: Path) -> Any:
    """The JSON of a configuration file, whatever it holds. Raises UserError where it is none."""
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise UserError(f"{path.name} is larger than a configuration can be.", "Name a run's config.json.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {_reason(error)}.", "Name a JSON file of a run.") from error
    return _json(text, path.name)


def loads(text: str) -> RunConfig:
    """As `load`, from the text itself."""
    return from_json(_json(text, "The configuration"))


def from_json(value: Any) -> RunConfig:
    """A RunConfig from parsed JSON. Raises InvalidConfig with every problem that shows without its model."""
    config, issues, _ = repair(value)
    if config is None or issues:
        raise InvalidConfig(issues)
    return config


def validate(config: RunConfig) -> list[Issue]:
    """Every problem that can be seen without the model: bounds, duplicates, contradictions."""
    return repair(config.to_json())[1]


def checked(value: Any, look: Callable[[RunConfig], Sequence[Issue]]) -> RunConfig:
    """The configuration in parsed JSON.

    Where it has problems, raises InvalidConfig with all of them, and with those that `look` finds in the rest.
    """
    config, issues, removed = repair(value)
    if config is not None and not issues:
        return config
    if config is not None:
        try:
            found = look(config)
        except UserError as error:
            found = [Issue("model.name", error.problem, error.fix)]
        none_left = not config.modules and value.get("modules")  # then it is no news that nothing is ticked
        issues += [_placed(issue, removed) for issue in found if not (none_left and issue.field == "modules")]
    raise InvalidConfig(issues)


def repair(value: Any) -> tuple[RunConfig | None, list[Issue], Removed]:
    """What can be used of parsed JSON, every problem of it, and the list items that were left out for theirs.

    Defaults stand for settings that cannot be used. None where nothing can be used.
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
        if HOPELESS.intersection(places) or not new:
            return None, issues, removed
        _drop(value, places, removed)


@cache
def _adapter() -> TypeAdapter[RunConfig]:
    from pydantic import TypeAdapter  # takes a tenth of a second, which few commands need

    return TypeAdapter(RunConfig)


def _read(value: Any) -> tuple[RunConfig | None, list[tuple[Place, Issue]]]:
    """The configuration, and its problems with their places."""
    from pydantic import ValidationError

    try:
        config = _adapter().validate_python(value)
    except ValidationError as error:
        return None, [(found["loc"], messages.issue(found)) for found in error.errors(include_url=False)]
    return config, [(_place(issue.field), issue) for issue in rules.check(config)]


def _copied(value: Any) -> Any:
    """A copy that may lose settings. 3.0 is 3 in it, and true is on, as older runs wrote it."""

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
    """A name without lone surrogates, on which pydantic gives up with the whole object."""
    return name.encode("utf-8", "replace").decode()


def _drop(value: dict[str, Any], places: Sequence[Place], removed: Removed) -> None:
    """Take what has a problem out of `value`, and note the list items among it in `removed`."""
    lost: dict[str, set[int]] = {}
    for place in places:
        match place:
            case ("modules", int(number), ("r" | "lora_alpha" | "lr" | "layers") as name):
                value["modules"][number].pop(str(name), None)
            case ("modules", int(number), *_):
                lost.setdefault("modules", set()).add(number)
            case ("model", "new_tokens", int(number)):
                lost.setdefault("model.new_tokens", set()).add(number)
            case (str(name),):
                value.pop(name, None)
            case (str(part), str(name), *_):
                value[part].pop(name, None)
                if (part, name) == ("data", "path"):
                    value[part]["source"] = "demo"
    for path, gone in lost.items():
        holder, key = (value, path) if path == "modules" else (value["model"], "new_tokens")
        holder[key] = [item for number, item in enumerate(holder[key]) if number not in gone]
        before = removed.get(path, [])
        removed[path] = sorted({*before, *(_original(number, before) for number in gone)})


def _original(number: int, removed: Sequence[int]) -> int:
    """The number that an item had before those with the (sorted) numbers `removed` were taken out."""
    for gone in removed:
        number += number >= gone
    return number


def _place(field: str) -> Place:
    return tuple(int(part) if part.isdecimal() else part for part in re.findall(r"[^.\[\]]+", field))


def _placed(issue: Issue, removed: Removed) -> Issue:
    """An issue by the number that its list item has in the original."""
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
    """A JSON object as a dict. Raises ValueError for a name that is there twice, of which json drops the first."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            name = json.dumps(key, ensure_ascii=False)
            lines = [str(number) for number, line in enumerate(text.splitlines(), 1) if name in line]
            where = f" (lines {', '.join(lines)})" if 1 < len(lines) < 10 else ""
            raise ValueError(f"{name[:80]} is named twice in one object{where}")
        found[key] = value
    return found


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)[:200] or type(error).__name__
