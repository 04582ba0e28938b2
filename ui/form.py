"""Components <-> RunConfig. Labels are in `labels.py`; explanations and bounds come from the configuration."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import gradio as gr

from trainer.common.errors import Issue
from trainer.common.formatting import number_text
from trainer.config.overrides import apply
from trainer.config.schema import RunConfig, default_config
from trainer.config.validation import repair
from ui.labels import CHOICES, LABELS

# the configuration checks all values; while the choices of a menu change, a page may still send an old one
gr.Dropdown.preprocess = lambda _menu, payload: payload  # type: ignore[assignment, method-assign]

TICKS = "modules"
MODEL_SPECIFIC = ("adapter.", "training.", "model.")
"""Settings that are reset when the model changes."""
TICK_FIELD = re.compile(r"modules\[(\d+)\]\.(\w+)")
FILE, HUB = "data.file", "data.hub"
"""Two boxes; the one that fits the source becomes `data.path`."""


@dataclass(frozen=True)
class Setting:
    """One setting, as the configuration defines it."""

    path: str
    hint: Any
    default: Any
    explanation: str

    @property
    def optional(self) -> bool:
        return type(None) in get_args(self.hint)

    @property
    def is_number(self) -> bool:
        return self.kind in (int, float)

    @property
    def is_text(self) -> bool:
        return self.kind is str

    @property
    def is_list(self) -> bool:
        """Whether it is several words, separated by spaces."""
        return get_origin(self.hint) is tuple

    @property
    def kind(self) -> Any:
        """The plain type: bool, int, float, str, or a Literal."""
        if get_origin(self.hint) is Union or self.optional:
            return next(item for item in get_args(self.hint) if item is not type(None))
        return self.hint


@cache
def settings() -> dict[str, Setting]:
    """Every setting of a RunConfig other than the ticks, by its path, such as `training.learning_rate`."""
    return {item.path: item for item in _settings(RunConfig, "")}


def _settings(cls: type, prefix: str) -> list[Setting]:
    result: list[Setting] = []
    hints = get_type_hints(cls)
    for item in dataclasses.fields(cls):
        path = f"{prefix}{item.name}"
        if dataclasses.is_dataclass(hints[item.name]):
            result += _settings(hints[item.name], f"{path}.")
        elif "description" in item.metadata:
            text = item.metadata["description"]
            result.append(Setting(path, hints[item.name], item.default, text))
    return result


def get(config: RunConfig, path: str) -> Any:
    """The value at `path` of a configuration."""
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


@dataclass
class Form:
    """The page's inputs by path, in the order in which handlers get their values."""

    defaults: RunConfig = field(default_factory=default_config)
    components: dict[str, Any] = field(default_factory=dict)

    def add(self, path: str, **options: Any) -> Any:
        """Add the component of one setting here: a Dropdown, Checkbox or Textbox."""
        setting, value = settings()[path], get(self.defaults, path)
        common: dict[str, Any] = {
            "label": LABELS[path],
            "info": setting.explanation,
            "elem_classes": ["setting"],
            "min_width": 100,
        }
        common |= {"elem_id": path.replace(".", "-")} | options
        component: gr.components.Component
        if "choices" in common:
            component = gr.Dropdown(value=value, **common)
        elif get_origin(setting.kind) is Literal:
            choices = [(CHOICES.get(item, item), item) for item in get_args(setting.kind)]
            component = common.pop("component", gr.Dropdown)(choices=choices, value=value, **common)
        elif setting.kind is bool:
            component = gr.Checkbox(value=value, **common)
        elif setting.is_list:
            component = gr.Textbox(value=" ".join(value), max_lines=1, **common)
        elif setting.kind is str:
            component = gr.Textbox(value=value, **{"max_lines": 1, **common})
        else:
            # numbers are typed as text: 1e-4 stays 1e-4, and all problems are shown at once
            component = gr.Textbox(value=number_text(value), max_lines=1, **common)
        self.components[path] = component
        return component

    @property
    def inputs(self) -> list[Any]:
        return list(self.components.values())

    def read(self, values: Sequence[Any]) -> tuple[RunConfig | None, list[Issue]]:
        """The configuration on the page, and all its problems.

        Invalid values are replaced by defaults, so that the plan for the rest can still be shown. The configuration
        is None if no model is named.
        """
        nested, issues = self._nested(dict(zip(self.components, values, strict=True)))
        config, invalid, _ = repair(nested)
        return config, [*issues, *(_named(issue, nested[TICKS]) for issue in invalid)]

    def restore(self, kept: Mapping[str, Any]) -> tuple[RunConfig | None, list[Issue]]:
        """The configuration that a browser keeps, by path, and what of it is no longer valid."""
        gone = [
            Issue(path[:80], "This setting no longer exists.", "") for path in kept if path not in self.components
        ]
        values = []
        for path, component in self.components.items():
            value = kept.get(path, component.value)
            if value is not None and type(value) is not (bool if isinstance(component.value, bool) else str):
                gone.append(Issue(path, "This is not what its field holds.", ""))
                value = component.value
            values.append(value)
        config, issues = self.read(values)
        return config, [*gone, *issues]

    def fill(self, config: RunConfig, whole: bool) -> list[Any]:
        """Values for the components of `filled`; unless `whole`, only for those that a change of the model resets."""
        return [
            self._shown(config, path) if whole or path.startswith(MODEL_SPECIFIC) else gr.skip()
            for path in self.filled
        ]

    def change(self, changes: Mapping[str, Any]) -> list[Any]:
        """Values for the components of `filled`: new ones for these settings, no change for the others."""
        config, _, _ = repair(apply(RunConfig().to_json(), changes))
        return [
            self._shown(config, path) if config is not None and path in changes else gr.skip() for path in self.filled
        ]

    def fix(self, event: gr.EventData) -> list[Any]:
        """As `change`, for the click of a `fix_button`."""
        try:
            changes = json.loads(event.changes)
        except (AttributeError, TypeError, ValueError, RecursionError):
            changes = {}  # only a tampered page sends an unreadable one
        return self.change(changes if isinstance(changes, dict) else {})

    @property
    def filled(self) -> list[str]:
        """Paths that `fill` gives values for: all except the model itself and the ticks."""
        return [path for path in self.components if path not in ("model.name", "model.revision", TICKS)]

    def _shown(self, config: RunConfig, path: str) -> Any:
        """The value of the component at `path` for a configuration."""
        if path in (FILE, HUB):
            return config.data.path if path == f"data.{config.data.source}" else ""
        item, value = settings()[path], get(config, path)
        return number_text(value) if item.is_number else " ".join(value) if item.is_list else value

    def _nested(self, flat: dict[str, Any]) -> tuple[dict[str, Any], list[Issue]]:
        nested: dict[str, Any] = {"model": {}, "adapter": {}, "data": {}, "training": {}, TICKS: []}
        issues: list[Issue] = []
        for path, value in flat.items():
            part, _, name = path.rpartition(".")
            known = settings().get(path)
            if path == TICKS:
                nested[TICKS] = _ticks(value)
            elif known is None:
                continue
            elif known.is_list:
                (nested[part] if part else nested)[name] = str(value or "").split()
            elif value in (None, "") and not known.is_text and not known.optional:
                issues.append(Issue(path, "This is empty.", f"Write a number, such as {number_text(known.default)}."))
            else:
                value = (value or "").strip() if known.is_text else number(value) if known.is_number else value
                (nested[part] if part else nested)[name] = value
        source = flat.get("data.source")
        nested["data"]["path"] = (flat.get({"file": FILE, "hub": HUB}.get(str(source), "")) or "").strip()
        return nested, issues


def number(text: Any) -> Any:
    """The typed text as a number; None if it is empty; the text itself if it is not a number."""
    if not isinstance(text, str):
        return text
    text = text.strip()
    for kind in (int, float):
        try:
            return kind(text) if text else None
        except ValueError:
            continue
    return text


def label(path: str) -> str:
    """The page's label for the field of an issue; empty if its text already names it."""
    if path.startswith("modules"):
        return ""
    return {"data.path": "Data", "data": "Data", "device": "GPU"}.get(path) or LABELS.get(path, path)


def _ticks(text: Any) -> Any:
    """The ticks of the modules panel, from JSON; anything else is left for validation to reject."""
    try:
        return json.loads(text or "[]")
    except (TypeError, ValueError):
        return text


def _named(issue: Issue, ticks: Any) -> Issue:
    """An issue of one field of a tick, such as `modules[3].layers`, with the tick's name: `modules.q_proj.layers`."""
    match = TICK_FIELD.fullmatch(issue.field)
    try:
        name = ticks[int(match[1])]["name"] if match else ""
    except (LookupError, TypeError):
        name = ""
    if not match or not name:
        return issue
    return dataclasses.replace(
        issue, field=f"modules.{name}.{match[2]}", problem=f"{name}, {match[2]}: {issue.problem}"
    )
