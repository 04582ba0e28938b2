"""JSON -> RunConfig, and every problem of a RunConfig at once.

Reading is strict: unknown keys, wrong types and foreign schema numbers are refused, each with the
nearest name that exists.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from trainer.common import redaction
from trainer.common.errors import InvalidConfig, Issue, UserError
from trainer.common.program import COMMAND
from trainer.config.schema import SCHEMA, DataConfig, RunConfig

MAX_CONFIG_BYTES = 1_000_000
MAX_TEXT = 20_000
_LAYER_PART = re.compile(r"(\d+)(?:\s*-\s*(\d+))?|(first|last)\s+(\d+)")


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


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{name} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}.",
            f"Mend that place, or start from `{COMMAND} config`.",
        ) from error
    except (RecursionError, ValueError) as error:
        raise UserError(f"{name} is not valid JSON: {_reason(error)}.", f"Start from `{COMMAND} config`.") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict. Raises ValueError for a name that is there twice, of which json drops the first."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{_show(key)} is named twice in one object")
        found[key] = value
    return found


def from_json(value: Any) -> RunConfig:
    """A RunConfig from parsed JSON. Raises InvalidConfig with every problem of form and of bounds."""
    issues: list[Issue] = []
    if isinstance(value, dict) and value.get("schema", SCHEMA) != SCHEMA:
        issues.append(
            Issue("schema", f"{_show(value['schema'])} is not a schema that this version reads.", f"Use {SCHEMA}.")
        )
        raise InvalidConfig(issues)
    config = _read(RunConfig, value, "", issues)
    if isinstance(config, RunConfig):  # with defaults where something could not be read: the rest is checked, too
        told = {issue.field for issue in issues}
        issues += [issue for issue in validate(config) if issue.field not in told]
    if issues:
        raise InvalidConfig(issues)
    return config  # type: ignore[no-any-return]


def validate(config: RunConfig) -> list[Issue]:
    """Every problem that can be seen without the model: bounds, duplicates, contradictions."""
    issues = list(_bounds(config, ""))
    issues += _check_ticks(config)
    for number, token in enumerate(config.model.new_tokens):
        if not token.strip() or token in config.model.new_tokens[:number]:
            issues.append(Issue(f"model.new_tokens[{number}]", "It is empty or named twice.", "Take it out."))
    issues += _check_data(config.data)
    if not config.model.name.strip():
        issues.append(Issue("model.name", "No model is chosen.", "Choose the demo, a hub id or a folder."))
    return issues


def _check_data(data: DataConfig) -> Iterator[Issue]:
    if data.source != "demo" and not data.path.strip():
        what = "an uploaded file" if data.source == "file" else "a data set's id"
        yield Issue("data.path", "No data is chosen.", f"Choose {what}, or the demo data.")
    if data.source == "file" and set(data.path.split()) & set(data.held_out.split()):
        yield Issue("data.held_out", "This file is among the training files.", "Choose another one, or a share.")
    if data.source == "hub" and data.held_out and data.held_out == data.split:
        yield Issue("data.held_out", "This split is the one that trains.", "Choose another one, or a share.")
    if bool(data.prompt_column) != bool(data.completion_column) and not data.messages_column:
        missing = "completion_column" if data.prompt_column else "prompt_column"
        yield Issue(f"data.{missing}", "Prompt and answer are picked together.", "Pick this column, too, or neither.")


def _check_ticks(config: RunConfig) -> Iterator[Issue]:
    seen: set[str] = set()
    for number, tick in enumerate(config.modules):
        where = f"modules[{number}]"
        if tick.name in seen:
            yield Issue(where, f"{tick.name} is ticked twice.", "Keep one of the two, LoRA or full.")
        seen.add(tick.name)
        if tick.treatment == "full" and (tick.r is not None or tick.lora_alpha is not None):
            yield Issue(
                where, f"{tick.name} is trained in full, where r and lora_alpha mean nothing.", "Leave them out."
            )
        if tick.layers:
            try:
                parse_layers(tick.layers, 10**6)
            except UserError as error:
                yield Issue(f"{where}.layers", error.problem, error.fix)


def parse_layers(text: str, count: int) -> tuple[int, ...]:
    """Layer numbers of "0-15", "last 8", "first 4", "3,5,7" in a model of `count` layers; empty text is all.

    Raises UserError where the text cannot be read, a range runs backwards or goes beyond the last layer.
    """
    if not text.strip():
        return tuple(range(count))
    chosen: set[int] = set()
    for part in text.lower().split(","):
        match = _LAYER_PART.fullmatch(part.strip())
        if match is None or any(number and len(number) > 6 for number in match.group(1, 2, 4)):
            raise UserError(f"“{text[:80]}” is no range of layers.", "Write 0-15, first 4, last 8 or 3,5,7.")
        start, end, side, size = match.groups()
        if side:
            taken = min(int(size), count)
            chosen.update(range(taken) if side == "first" else range(count - taken, count))
            continue
        first, last = int(start), int(end or start)
        if last < first:
            raise UserError(f"“{part.strip()}” runs backwards.", f"Write {last}-{first}.")
        if last >= count:
            raise UserError(f"There is no layer {last}.", f"The last one is {count - 1}.")
        chosen.update(range(first, last + 1))
    return tuple(sorted(chosen))


def _read(cls: type, value: Any, path: str, issues: list[Issue]) -> Any:
    if not isinstance(value, dict):
        issues.append(Issue(path or "config", f"{_show(value)} is not an object.", "Write {…} with named settings."))
        return None
    hints = _hints(cls)
    known = {field.name for field in dataclasses.fields(cls)}
    for key in value.keys() - known:
        close = difflib.get_close_matches(str(key), known, n=1)
        fix = f"Did you mean {close[0]}?" if close else f"Known here: {', '.join(sorted(known))}."
        issues.append(Issue(_join(path, str(key)[:80]), "This setting does not exist.", fix))
    taken: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if field.name in value:
            before = len(issues)
            item = _convert(hints[field.name], value[field.name], _join(path, field.name), issues)
            if len(issues) == before or dataclasses.is_dataclass(item):  # a part keeps what could be read of it
                taken[field.name] = item
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            issues.append(Issue(_join(path, field.name), "This is missing.", "Add it."))
    try:
        return cls(**taken)
    except TypeError:  # a required part is missing; its issue is listed already
        return None


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _convert(hint: Any, value: Any, path: str, issues: list[Issue]) -> Any:
    """`value` as `hint` wants it; problems go to `issues`."""
    if dataclasses.is_dataclass(hint):
        return _read(hint, value, path, issues)  # type: ignore[arg-type]
    origin = get_origin(hint)
    if origin is tuple:
        if not isinstance(value, list):
            issues.append(Issue(path, f"{_show(value)} is not a list.", "Write […]."))
            return ()
        return tuple(_convert(get_args(hint)[0], item, f"{path}[{i}]", issues) for i, item in enumerate(value))
    if origin is Literal:
        if isinstance(value, bool) and "on" in get_args(hint):
            value = "on" if value else "off"  # as runs of before wrote it
        if value not in get_args(hint) or not isinstance(value, str):
            issues.append(Issue(path, f"{_show(value)} is not possible here.", f"Choose {_choices(hint)}."))
        return value
    if origin in (Union, types.UnionType):
        return None if value is None else _convert(get_args(hint)[0], value, path, issues)
    return _convert_scalar(hint, value, path, issues)


def _convert_scalar(hint: Any, value: Any, path: str, issues: list[Issue]) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and not _small(value):
        issues.append(Issue(path, "The number is too large.", "Write a smaller one."))
        return None
    if hint is float and is_number:
        return float(value)
    if hint is int and is_number and float(value).is_integer():
        return int(value)
    if hint is bool and isinstance(value, bool):
        return value
    if hint is str and isinstance(value, str):
        return value
    wanted = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}[hint]
    issues.append(Issue(path, f"{_show(value)} is not {wanted}.", f"Write {wanted}."))
    return None


def _bounds(part: Any, path: str) -> Iterator[Issue]:
    """Problems of bounds in a dataclass and all its parts."""
    for field in dataclasses.fields(part):
        value, where = getattr(part, field.name), _join(path, field.name)
        if dataclasses.is_dataclass(value):
            yield from _bounds(value, where)
        elif isinstance(value, tuple):
            for number, item in enumerate(value):
                spot = f"{where}[{number}]"
                yield from _text(item, spot) if isinstance(item, str) else _bounds(item, spot)
        elif isinstance(value, str):
            yield from _text(value, where)
        elif value is not None and not isinstance(value, bool):
            yield from _bound(field.metadata, value, where)


def _text(value: str, where: str) -> Iterator[Issue]:
    if len(value) > MAX_TEXT or "\x00" in value:
        yield Issue(where, "The text is too long or holds a NUL character.", f"Keep to {MAX_TEXT} characters.")
    elif redaction.holds_secret(value):
        yield Issue(where, "This holds a secret token, which is never saved.", "Set HF_TOKEN in the environment.")


def _bound(bounds: Any, value: float, where: str) -> Iterator[Issue]:
    low, above, high = bounds.get("min"), bounds.get("above"), bounds.get("max")
    if isinstance(value, float) and not math.isfinite(value):
        yield Issue(where, f"{value} is not a number to work with.", "Write a finite number.")
    elif low is not None and value < low:
        yield Issue(where, f"{value:g} is too small.", f"The least is {low:g}.")
    elif above is not None and value <= above:
        yield Issue(where, f"{value:g} is too small.", f"It must be above {above:g}.")
    elif high is not None and value > high:
        yield Issue(where, f"{value:g} is too large.", f"The most is {high:g}.")


def _small(value: Any) -> bool:
    return not isinstance(value, int) or abs(value) < 2**53


def _choices(hint: Any) -> str:
    return " or ".join(str(choice) for choice in get_args(hint))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _show(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and not _small(value):
        return "So large a number"
    if isinstance(value, dict | list):
        return "An object" if isinstance(value, dict) else "A list"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "…"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)[:200] or type(error).__name__
