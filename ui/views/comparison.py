"""What the Compare tab shows: verdict, table, differences, match reports. HTML: `templates/comparison.html`."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from markupsafe import Markup

from trainer.common import formatting
from trainer.common.errors import UserError
from trainer.service.experiments import COLORS, COLUMNS, SPREAD, Comparison, Experiment, Group, Row, shown_spread
from trainer.service.experiments import shown as format_figure
from ui.views import HTML

render = HTML.macros("comparison.html")
EMPTY = render("nothing")


def notice(error: UserError) -> Markup:
    return render("notice", error)


def experiment_row(summary: dict[str, Any]) -> dict[str, Any]:
    """An experiment's row in the list."""
    left = f" · about {formatting.duration(summary['remaining'])} left" if summary["remaining"] is not None else ""
    note = summary.get("message") or f"{summary['finished']} of {summary['runs']} runs finished{left}"
    return {"id": summary["id"], "name": summary["name"], "state": summary["state"], "note": note}


def run_row(row: dict[str, Any]) -> dict[str, Any]:
    """A run's row in the list."""
    loss = f"eval loss {formatting.loss(row['eval_loss'])}" if row["eval_loss"] is not None else "no eval loss yet"
    note = " · ".join((row["model"], loss, formatting.moment(row["created"])))
    return {"id": row["id"], "name": row["name"], "state": row["state"], "note": note}


def head(found: Comparison, summary: dict[str, Any] | None) -> Markup:
    """Name, progress and verdict."""
    title = summary["name"] if summary else f"{len(found.rows)} runs compared"
    return render("head", found, title, summary and summary | experiment_row(summary))


def table(found: Comparison) -> dict[str, Any]:
    """Columns and rows (scenario means, and single runs) for the table script, and the CSV of the runs."""
    columns = [{"key": "name", "title": "Scenario"}]
    columns += [{"key": key, "title": title.split(",")[0]} for key, title in found.columns.items()]
    groups = [_group(number, group) for number, group in enumerate(found.groups)]
    runs = [_run(number, row) for number, group in enumerate(found.groups) for row in group.all_rows]
    return {"columns": columns, "groups": groups, "runs": runs, "csv": found.to_csv()}


def _group(number: int, group: Group) -> dict[str, Any]:
    raw = {key: group.mean(key) for key in COLUMNS}
    shown = {key: format_figure(key, value) for key, value in raw.items()}
    for key in SPREAD:
        spread = group.spread(key)
        if spread is not None:
            shown[key] += f" ± {shown_spread(key, spread)}"
    seeds = "" if len(group.rows) == 1 else f" · {len(group.finished)} of {len(group.rows)} seeds"
    name = f"{group.label}{seeds}"
    return {"color": _color(number), "raw": raw | {"name": name}, "shown": shown | {"name": name}}


def _run(number: int, row: Row) -> dict[str, Any]:
    raw = {key: getattr(row, key) for key in COLUMNS}
    name = f"{row.title} ({row.state})" if row.state != "finished" else row.title
    shown = {key: format_figure(key, value) for key, value in raw.items()}
    return {"color": _color(number), "raw": raw | {"name": name}, "shown": shown | {"name": name}}


def _color(number: int) -> str:
    return COLORS[number % len(COLORS)]


def details(found: Comparison, experiment: Experiment | None) -> Markup:
    """Differences between the configurations, every pair, and what each scenario matched."""
    names = [group.name for group in found.groups]
    return render(
        "details",
        found,
        names,
        ladders(found),
        experiment and [(item, account(item)) for item in experiment.scenarios],
    )


def ladders(found: Comparison) -> list[tuple[str, list[tuple[str, str, bool]]]]:
    """Of every scenario with a ladder, each rung: its factors, mean eval loss, and whether it is the best one."""
    return [
        (
            group.name,
            [
                (
                    rung.rung.name,
                    format_figure("eval_loss", fmean(rung.losses) if rung.losses else None),
                    rung.rung == group.best and bool(rung.losses),
                )
                for rung in sorted(group.ladder, key=lambda rung: rung.rung)
            ],
        )
        for group in found.groups
        if group.ladder
    ]


def account(item: dict[str, Any]) -> str:
    """What a scenario is and what it costs, as plain text. `item`: from `ScenarioPlan.to_json`."""
    if item.get("same_as"):
        return f"Trains the same weights as “{item['same_as']}”, so it is not run again."
    count = f"{item['trainable']:,} trainable parameters."
    return " ".join(filter(None, (item.get("note", ""), count, item.get("budget", ""))))


def scenario(item: dict[str, Any]) -> Markup:
    """A scenario with its match report; `item`: from `ScenarioPlan.to_json`."""
    return render("scenario", item, account(item))
