"""What the Compare tab says: verdict, table, differences, receipts. All foreign text is escaped here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trainer.common import formatting
from trainer.common.errors import UserError
from trainer.service.experiments import COLORS, COLUMNS, SPREAD, Comparison, Experiment, Group, Row
from trainer.service.experiments import shown as figure
from ui.views import text

EMPTY = (
    '<div class="empty"><strong>Nothing is compared yet</strong><span>Tick two runs or more, or choose an '
    "experiment. There is none? Open <em>Run scenarios</em>.</span></div>"
)


def notice(error: UserError) -> str:
    return (
        f'<div class="empty"><strong>{text.escape(error.problem)}</strong><span>{text.escape(error.fix)}</span></div>'
    )


def experiment_row(summary: dict[str, Any]) -> dict[str, Any]:
    """An experiment in the list."""
    left = f" · about {formatting.duration(summary['remaining'])} left" if summary["remaining"] is not None else ""
    note = f"{summary['finished']} of {summary['runs']} runs finished{left}"
    return {"id": summary["id"], "name": summary["name"], "state": summary["state"], "note": note}


def run_row(row: dict[str, Any]) -> dict[str, Any]:
    """A run in the list."""
    loss = f"eval loss {formatting.loss(row['eval_loss'])}" if row["eval_loss"] is not None else "no eval loss yet"
    note = " · ".join((row["model"], loss, formatting.moment(row["created"])))
    return {"id": row["id"], "name": row["name"], "state": row["state"], "note": note}


def head(found: Comparison, summary: dict[str, Any] | None) -> str:
    """Name, progress and verdict."""
    title = summary["name"] if summary else f"{len(found.rows)} runs compared"
    state = (
        f'<span class="pill {text.escape(summary["state"])}">{text.escape(summary["state"])}</span>'
        if summary
        else ""
    )
    progress = ""
    if summary:
        share = summary["finished"] / max(summary["runs"], 1)
        progress = (
            f'<p class="facts">{text.escape(summary["question"])}</p>'
            f'<div class="progress"><i style="width:{share * 100:.1f}%"></i></div>'
            f'<div class="progress-text"><span>{text.escape(experiment_row(summary)["note"])}</span></div>'
        )
    return (
        f'<div class="live-head"><h2>{text.escape(title)}</h2>{state}</div>{progress}'
        f"{_verdict(found)}{_list(found.warnings, 'nothing')}"
    )


def _verdict(found: Comparison) -> str:
    if not found.verdict:
        return '<p class="quiet">The verdict comes once two scenarios have finished with an eval loss.</p>'
    first, *rest = found.verdict
    return f'<p class="verdict">{text.escape(first)}</p>{_list(rest, "reasons")}'


def _list(lines: Iterable[str], kind: str) -> str:
    items = "".join(f"<li>{text.escape(line)}</li>" for line in lines)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def table(found: Comparison) -> dict[str, Any]:
    """Rows to sort and show, means of scenarios and single runs, and the CSV of the runs."""
    columns = [{"key": "name", "title": "Scenario"}]
    columns += [{"key": key, "title": title.split(",")[0]} for key, title in COLUMNS.items()]
    groups = [_group(number, group) for number, group in enumerate(found.groups)]
    runs = [_run(number, row) for number, group in enumerate(found.groups) for row in group.rows]
    return {"columns": columns, "groups": groups, "runs": runs, "csv": found.to_csv()}


def _group(number: int, group: Group) -> dict[str, Any]:
    raw = {key: group.mean(key) for key in COLUMNS}
    shown = {key: figure(key, value) for key, value in raw.items()}
    for key in SPREAD:
        spread = group.spread(key)
        if spread is not None:
            shown[key] += f" ± {figure(key, spread)}"
    name = group.name if len(group.rows) == 1 else f"{group.name} · {len(group.finished)} of {len(group.rows)} seeds"
    return {"color": _color(number), "raw": raw | {"name": name}, "shown": shown | {"name": name}}


def _run(number: int, row: Row) -> dict[str, Any]:
    raw = {key: getattr(row, key) for key in COLUMNS}
    name = f"{row.title} ({row.state})" if row.state != "finished" else row.title
    shown = {key: figure(key, value) for key, value in raw.items()}
    return {"color": _color(number), "raw": raw | {"name": name}, "shown": shown | {"name": name}}


def _color(number: int) -> str:
    return COLORS[number % len(COLORS)]


def details(found: Comparison, experiment: Experiment | None) -> str:
    """What differs between the configurations, every pair, and what each scenario matched."""
    parts = []
    if found.differences:
        parts.append(_fold("What differs, and nothing else", _differences(found), is_open=True))
    if found.pairs:
        parts.append(_fold("Every pair", _list((pair.sentence for pair in found.pairs), "reasons")))
    if experiment is not None:
        scenarios = "".join(map(scenario, experiment.scenarios))
        parts.append(_fold("The scenarios and what they matched", scenarios))
    return "".join(parts)


def _fold(title: str, content: str, is_open: bool = False) -> str:
    attribute = " open" if is_open else ""
    return f'<details class="fold card"{attribute}><summary>{text.escape(title)}</summary>{content}</details>'


def _differences(found: Comparison) -> str:
    def line(cells: Iterable[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{text.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    # scenarios below each other: their names and their modules are long, the settings that differ are few
    head_line = line(("", *found.differences), "th")
    rows = "".join(
        line((group.name, *(values[number] for values in found.differences.values())), "td")
        for number, group in enumerate(found.groups)
    )
    return f'<div class="scroll"><table class="plain"><thead>{head_line}</thead><tbody>{rows}</tbody></table></div>'


def account(item: dict[str, Any]) -> str:
    """What a scenario is and what it costs, in sentences; plain text. `item`: as `Offer.to_json` has it."""
    if item.get("same_as"):
        return f"Trains the same weights as “{item['same_as']}”, and so is offered once."
    count = f"{item['trainable']:,} parameters train."
    return " ".join(filter(None, (item.get("note", ""), count, item.get("budget", ""))))


def aside(title: str, said: str) -> str:
    """A scenario that does not run, and why."""
    return f'<section class="offer same"><strong>{text.escape(title)}</strong><p>{text.escape(said)}</p></section>'


def scenario(item: dict[str, Any]) -> str:
    """A scenario with its receipts, as `Offer.to_json` has it."""
    said = account(item)
    if item.get("same_as"):
        return aside(item["title"], said)
    receipts = "".join(
        f"<li{'' if receipt['matched'] else ' class=bad'}><code>{text.escape(receipt['tick'])}</code> "
        f"{text.escape(receipt['treatment'])}: {text.escape(receipt['note'])}</li>"
        for receipt in item.get("receipts", [])
    )
    issues = _list((f"{issue['problem']} {issue['fix']}" for issue in item.get("issues", [])), "nothing")
    return (
        f'<section class="offer"><strong>{text.escape(item["title"])}</strong><p>{text.escape(said)}</p>{issues}'
        f"<details><summary>Receipts</summary><ul>{receipts}</ul></details></section>"
    )
