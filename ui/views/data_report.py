"""The report on the data and single examples as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainer.common import formatting
from ui.views import text

SHAPES = {
    "chat": "conversations",
    "instruction": "instructions and answers",
    "question_answer": "questions and answers",
    "prompt_completion": "prompts and completions",
    "text": "plain text",
}
WAYS = {"bfd": "packed", "group_by_length": "grouped by length", "off": "padded"}
TEMPLATES = {"model": "the model's template", "chatml": "ChatML", "plain": "plain prompt and answer"}
STAGES = {
    "waiting": "Waiting for another check",
    "reading": "Reading the file",
    "checking": "Checking the rows",
    "tokenizing": "Rendering and tokenizing",
}
LINES = 8
"""Line numbers shown of each problem before all of them are asked for."""
LEGEND = (
    '<p class="legend"><span class="t counts">counts for the loss</span><span class="t context">context</span>'
    '<span class="t cut">cut off</span><span class="t context special">special token</span></p>'
)


def line(report: Mapping[str, Any]) -> str:
    """The report in one line, for the settings column."""
    issues = report["issues"]
    if issues:
        problem = text.escape(issues[0]["problem"])
        return f'<p class="data-line bad" title="{problem}">{problem}</p>'
    tokens = report["tokens"]
    counts = f"{formatting.percent(tokens['share'])} counts"
    parts = [f"{report['good']:,} rows", SHAPES.get(report["shape"], ""), counts]
    parts += [f"{len(report['bad']):,} left out"] if report["bad"] else []
    shown = text.escape(" · ".join(filter(None, parts)))
    return f'<p class="data-line" title="{shown}">{shown}</p>'


def progress(stage: str, share: float) -> str:
    """A bar while the data are being read."""
    what = text.escape(STAGES.get(stage, "Starting the reader"))
    busy = " busy" if stage not in STAGES else ""
    percent = f"{share:.0%}" if stage in STAGES else ""
    return (
        f'<div class="progress{busy}" role="progressbar" aria-label="{what}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{share * 100:.0f}"><i style="width:{share * 100:.1f}%"></i></div>'
        f'<div class="progress-text"><span>{what} …</span><span>{percent}</span></div>'
    )


def failed(problem: str) -> str:
    """Why there is no report."""
    head = "<strong>There is nothing to look at</strong>"
    return f'<div class="notice failed">{head}<span>{text.escape(problem)}</span></div>'


def overview(report: Mapping[str, Any]) -> str:
    """What the data are, and what training on them means."""
    if not report["shape"]:
        return ""
    template = report["template"]
    why = text.escape(report["why"])
    how = text.escape(f"Rendered by {TEMPLATES[template['kind']]}: {template['why']}.")
    return f'<p class="why">{why}</p><p class="quiet">{how}</p>{_figures(report)}'


def _figures(report: Mapping[str, Any]) -> str:
    tokens, training, batches = report["tokens"], report["training"], report["batches"]
    items = [
        ("Rows", f"{report['rows']:,}", f"{len(report['bad']):,} cannot be used" if report["bad"] else "all usable")
    ]
    if tokens:
        held = report["held_out"]["examples"]
        items += [
            ("Training", f"{tokens['examples']:,}", f"{held:,} held out"),
            ("Tokens", formatting.count(tokens["total"]), "per epoch"),
            ("Count", formatting.percent(tokens["share"]), f"{formatting.count(tokens['counted'])} tokens"),
        ]
    if training:
        seconds = training["seconds"]
        pace = f"{formatting.count(training['tokens'] / seconds)} tokens/s" if seconds else "no run of this model yet"
        items += [
            ("Steps", f"{training['steps']:,}", f"{training['steps_per_epoch']:,} per epoch"),
            ("Time", f"≈ {formatting.duration(seconds)}" if seconds else "unknown", pace),
        ]
    if batches:
        other = f", {formatting.percent(batches['unpacked'])} else" if batches["way"] != "off" else ""
        items.append(("Fill of batches", formatting.percent(batches["fill"]), f"{WAYS[batches['way']]}{other}"))
    if report["duplicates"]:
        items.append(("Duplicates", f"{report['duplicates']:,}", "exact copies"))
    cells = "".join(
        f"<div><dt>{name}</dt><dd>{text.escape(value)}</dd><dd class='more'>{text.escape(more)}</dd></div>"
        for name, value, more in items
    )
    return f'<dl class="tiles">{cells}</dl>'


def problems(report: Mapping[str, Any], skip: bool) -> str:
    """What keeps the run from starting, the bad rows by their reasons, and what may not be as meant."""
    issues = [issue for issue in report["issues"] if not (report["bad_groups"] and issue["field"] == "data")]
    parts = [_box("issues refused", "This data cannot be trained on.", map(_sentence, issues))] if issues else []
    if report["bad_groups"]:
        count = len(report["bad"])
        what = "They are left out." if skip else "Mend them, or choose to go on without them."
        head = f"{count:,} of {report['rows']:,} rows cannot be used. {what}"
        parts.append(_box("issues" if skip else "issues refused", head, map(_group, report["bad_groups"])))
    if report["warnings"]:
        parts.append(_box("issues hints", "Worth a look", map(_sentence, report["warnings"])))
    return "".join(parts)


def _group(group: Mapping[str, Any]) -> str:
    """A reason and its lines; many lines are folded."""
    lines, word = group["lines"], "line" if group["count"] == 1 else "lines"
    said = f"{group['count']:,} × {group['reason']}: {word} "
    if len(lines) <= LINES:
        return text.escape(said + ", ".join(map(str, lines)))
    first, rest = (text.escape(", ".join(map(str, part))) for part in (lines[:LINES], lines[LINES:]))
    more = f"<summary>and {len(lines) - LINES:,} more</summary>"
    return f"{text.escape(said)}{first} <details>{more}{rest}</details>"


def _sentence(issue: Mapping[str, Any]) -> str:
    return text.escape(f"{issue['problem']} {issue['fix']}".strip())


def _box(kind: str, head: str, items: Iterable[str]) -> str:
    """`items`: as HTML."""
    listed = "".join(f"<li>{item}</li>" for item in items)
    return f'<div class="{kind}" role="status"><strong>{text.escape(head)}</strong><ul>{listed}</ul></div>'


def example(value: Mapping[str, Any]) -> str:
    """One example as the model sees it."""
    where = text.escape(f"{value['file']}, line {value['line']:,}")
    facts = f"{value['length']:,} tokens · {value['counted']:,} count"
    facts += f" · {value['cut']:,} cut off" if value["cut"] else ""
    rest = f'<span class="quiet"> … {value["hidden"]:,} tokens more</span>' if value["hidden"] else ""
    head = f"<strong>{value['number'] + 1:,} of {value['of']:,}</strong><span>{text.escape(facts)}</span>"
    return (
        f'<div class="example-head">{head}<span class="quiet" title="{where}">{where}</span>'
        f'</div><div class="example" tabindex="0" role="document" aria-label="Example" dir="auto">'
        f"{''.join(_tokens(value['tokens']))}{rest}</div>{LEGEND}"
    )


def _tokens(tokens: Sequence[Mapping[str, Any]]) -> Any:
    for number, token in enumerate(tokens):
        kind = f"t {token['kind']}{' special' if token['special'] else ''}{' odd' if number % 2 else ''}"
        yield f'<span class="{kind}">{_visible(token["text"])}</span>'


def _visible(content: str) -> str:
    """The text of a token; what cannot be seen has a sign."""
    shown = text.escape(content).replace("\n", '<i class="sign">↵</i>\n').replace("\t", '<i class="sign">⇥</i>\t')
    return "".join(c if c.isprintable() or c in "\n\t\u200d" else f'<i class="sign">{ord(c):04x}</i>' for c in shown)
