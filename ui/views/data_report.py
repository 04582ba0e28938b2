"""The report on the data and single examples as HTML."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from markupsafe import Markup

from trainer.common import formatting
from trainer.common.errors import Issue
from trainer.config.schema import RunConfig
from ui.fix_button import buttons
from ui.labels import CHOICES, LABELS
from ui.views import HTML

render = HTML.macros("data_report.html")

SHAPES = {
    "chat": "conversations",
    "instruction": "instructions and answers",
    "question_answer": "questions and answers",
    "prompt_completion": "prompts and completions",
    "text": "plain text",
}
WAYS = {"bfd": "packed", "group_by_length": "grouped by length", "off": "padded"}
TEMPLATES = {"model": "the model's template", "chatml": "ChatML", "plain": "plain prompt and answer"}
KINDS = {
    "answer": "Answers",
    "tool call": "Tool calls",
    "reasoning": "Reasoning",
    "last answer": "Last answers",
    "text": "Plain texts",
}
"""What a model may be trained to write."""
ON_PAGE = {
    " (bad_rows: skip)": "",
    "in data.roles": f"under “{LABELS['data.roles']}” in the preview",
    "Set preference_rows to chosen": f"Choose “{CHOICES['chosen']}” under “{LABELS['data.preference_rows']}”",
    "Keep it (reasoning: keep)": "Keep it",
    "Set answer_end to auto.": f"Set “{LABELS['data.answer_end']}” to “{CHOICES['auto']}”.",
    "(loss_on: last)": f"(“{LABELS['data.loss_on']}: {CHOICES['last']}”)",
    "(reasoning: keep)": f"(“{LABELS['data.reasoning']}: {CHOICES['keep']}”)",
}
"""Settings as sentences name them, and as the page does."""
_NAMES = {path.rpartition(".")[2]: label for path, label in LABELS.items() if "_" in path.rpartition(".")[2]}
"""Labels by configuration key, of those keys that are no ordinary words."""
_SETTING = re.compile(
    rf"(?:\b(?:{'|'.join(sorted({path.partition('.')[0] for path in LABELS}))})\.)?\b({'|'.join(_NAMES)})\b"
)
STAGES = {
    "waiting": "Waiting for another check",
    "reading": "Reading the file",
    "checking": "Checking the rows",
    "tokenizing": "Rendering and tokenizing",
}
SHOWN = 12
"""Names of unused columns that a sentence lists."""
LINES = 8
"""Line numbers shown of each problem before all of them are asked for."""
SIGNS = {"\n": "↵", "\t": "⇥"}
"""White space that is shown and kept."""
ZERO_WIDTH_JOINER = "\u200d"


def line(report: Mapping[str, Any]) -> Markup:
    """The report in one line, for the settings column."""
    issues = report["issues"]
    if issues:
        return render("line", issues[0]["problem"], bad=True)
    counts = f"{formatting.percent(report['tokens']['share'])} counts"
    parts = [f"{report['good']:,} rows", SHAPES.get(report["shape"], ""), counts]
    parts += [f"{len(report['bad']):,} skipped"] if report["bad"] else []
    return render("line", " · ".join(filter(None, parts)))


def progress(stage: str, share: float) -> Markup:
    """A bar while the data is being read."""
    return render("progress", STAGES.get(stage), share)


def failed(problem: str) -> Markup:
    """Why there is no report."""
    return render("failed", problem)


def overview(report: Mapping[str, Any]) -> Markup:
    """What the data is, and what training on it means."""
    if not report["shape"]:
        return Markup()
    template = report["template"]
    how = f"Rendered by {TEMPLATES[template['kind']]}: {template['why']}."
    return render("overview", report["why"], how, _figures(report), kinds(template["kinds"]), unused(report))


def kinds(found: Mapping[str, Mapping[str, int]]) -> str:
    """How many messages of each kind count, as a line."""
    answers = sum(found[name]["messages"] for name in ("answer", "tool call") if name in found)
    parts = [
        f"{KINDS[name]}: {counts['counted']:,} of {counts['messages']:,}"
        for name, counts in sorted(found.items(), key=lambda item: list(KINDS).index(item[0]))
        if name != "last answer" or counts["messages"] < answers
    ]
    parts[:1] = [f"{first} count" for first in parts[:1]]
    return " · ".join(parts)


def unused(report: Mapping[str, Any]) -> str:
    """What the rows have and no example holds, as a sentence; empty if all is used."""
    found = report["unused"]
    parts = [*_counts("column", found["columns"], "row"), *_counts("message field", found["fields"], "message")]
    dropped = [f"{count:,} × {kind}" for kind, count in found["media"].items()]
    parts += [f"{', '.join(dropped)} left out"] if dropped else []
    return f"Not used: {'; '.join(parts)}." if parts else ""


def _counts(what: str, counts: Mapping[str, int], unit: str) -> Iterator[str]:
    if counts:
        shown = ", ".join(f"{name[:40]} ({formatting.plural(n, unit)})" for name, n in list(counts.items())[:SHOWN])
        more = f" and {len(counts) - SHOWN:,} more" if len(counts) > SHOWN else ""
        yield f"{what if len(counts) == 1 else f'{what}s'} {shown}{more}"


def _figures(report: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    tokens, training, batches = report["tokens"], report["training"], report["batches"]
    items = [("Rows", f"{report['rows']:,}", _usable(report))]
    if tokens:
        held = report["held_out"]["examples"]
        items += [
            ("Training", f"{tokens['examples']:,}", f"{held:,} held out"),
            ("Tokens", formatting.count(tokens["total"]), "per epoch"),
            ("Loss tokens", formatting.percent(tokens["share"]), f"{formatting.count(tokens['counted'])} tokens"),
        ]
    if training:
        seconds = training["seconds"]
        pace = f"{formatting.count(training['tokens'] / seconds)} tokens/s" if seconds else "no run of this model yet"
        items += [
            ("Steps", f"{training['steps']:,}", f"{training['steps_per_epoch']:,} per epoch"),
            ("Time", f"≈ {formatting.duration(seconds)}" if seconds else "unknown", pace),
        ]
    if batches:
        other = f"; {formatting.percent(batches['unpacked'])} if padded" if batches["way"] != "off" else ""
        items.append(("Padding efficiency", formatting.percent(batches["fill"]), f"{WAYS[batches['way']]}{other}"))
    if report["duplicates"]:
        items.append(("Duplicates", f"{report['duplicates']:,}", "exact copies"))
    return [(*item, "") for item in items]


def _usable(report: Mapping[str, Any]) -> str:
    """How many of the rows go into the examples."""
    parts = [f"{len(report['bad']):,} invalid"] if report["bad"] else []
    parts += [f"{report['undecided']:,} undecided"] if report["undecided"] else []
    parts += [f"{count:,} left out ({reason})" for reason, count in report["left_out"].items()]
    return ", ".join(parts) or "all usable"


def problems(report: Mapping[str, Any], config: RunConfig) -> Markup:
    """What keeps the run from starting, the bad rows by their reasons, and what may not be as intended."""
    groups, skip = report["bad_groups"], config.data.bad_rows == "skip"
    of_rows = [issue for issue in report["issues"] if groups and issue["field"] == "data"]
    issues = [issue for issue in report["issues"] if issue not in of_rows]
    what = "They are skipped." if skip else "Fix them, or train without them."
    bad_rows = {
        "head": f"{len(report['bad']):,} of {report['rows']:,} rows are invalid. {what}",
        "groups": [_group(group) for group in groups],
        "buttons": [button for issue in of_rows for button in buttons(Issue.from_json(issue), trains=False)],
    }
    shown = [[_on_page(issue, report, config) for issue in found] for found in (issues, report["warnings"])]
    return render("problems", shown[0], bad_rows, skip, shown[1])


def _on_page(issue: Mapping[str, Any], report: Mapping[str, Any], config: RunConfig) -> Mapping[str, Any]:
    """An issue whose fix names what the page has for it, with its button."""
    fix = "Choose a role for each below." if issue["field"] == "data.roles" else on_page(issue["fix"])
    found = Issue.from_json(issue)
    if issue["field"] == "model.new_tokens":
        tokens = [*config.model.new_tokens, *report["template"]["missing_tokens"]]
        found = replace(found, changes={"model.new_tokens": tokens})  # type: ignore[dict-item]
    return {**issue, "fix": fix, "buttons": buttons(found)}


def on_page(sentence: str) -> str:
    """A sentence with the page's names of settings."""
    for text, name in ON_PAGE.items():
        sentence = sentence.replace(text, name)
    return _SETTING.sub(lambda found: _label(found[1], begins=found.start() == 0), sentence)


def _label(key: str, begins: bool) -> str:
    """The label of a setting, small inside a sentence unless it is a name such as LoRA."""
    label = _NAMES[key]
    return label[0].lower() + label[1:] if label[1:].islower() and not begins else label


def _group(group: Mapping[str, Any]) -> dict[str, Any]:
    """A reason and its lines; many lines are folded."""
    lines, word = group["lines"], "line" if group["count"] == 1 else "lines"
    first, rest = (", ".join(map(str, part)) for part in (lines[:LINES], lines[LINES:]))
    said = f"{group['count']:,} × {group['reason']}: {word}"
    return {"said": said, "first": first, "rest": rest, "more": len(lines) - LINES}


def example(value: Mapping[str, Any]) -> Markup:
    """One example as the model sees it."""
    where = f"{value['file']}, line {value['line']:,}"
    facts = f"{value['length']:,} tokens · {value['counted']:,} loss tokens"
    facts += f" · {value['cut']:,} cut off" if value["cut"] else ""
    return render("example", value, where, facts, _tokens(value["tokens"]))


def _tokens(tokens: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    for token in tokens:
        yield f"{token['kind']}{' special' if token['special'] else ''}", list(pieces(token["text"]))


def pieces(content: str) -> Iterator[tuple[str, str]]:
    """Signs and texts in turn: what cannot be seen gets a sign before it, or instead of it."""
    for is_visible, run in groupby(content, lambda char: char.isprintable() or char == ZERO_WIDTH_JOINER):
        if is_visible:
            yield "", "".join(run)
            continue
        for char in run:
            yield SIGNS.get(char, f"{ord(char):04x}"), char if char in SIGNS else ""
