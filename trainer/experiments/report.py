"""The report of a comparison: question, verdict, table, curves, match reports, settings, versions, machine.

A report is a list of blocks, which become Markdown here and an HTML file in `report_html.py`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from trainer.common.environment import machine
from trainer.common.redaction import redact
from trainer.experiments.comparison import Comparison
from trainer.experiments.experiment_file import Experiment
from trainer.experiments.table import PRICES, SPREAD, Group, Row, shown, shown_spread
from trainer.export.adapter_zip import clean
from trainer.runs import samples
from trainer.runs.store import RunStore

CURVES_BLOCK, PRICES_BLOCK = "curves", "prices"
CURVE_STEPS = 12
"""Steps of a curve in the table, and evaluations whose samples are shown."""
PROMPT_LENGTH = 200
"""Characters of a sample's prompt."""


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Bullets:
    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Cells are plain text; all but the first `texts` columns are numbers."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: int = 1


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Figure:
    """A chart, for formats that can show it; `without` is the text for the others."""

    name: str
    without: str


Block = Heading | Text | Bullets | Table | Code | Figure


def document(store: RunStore, found: Comparison, experiment: Experiment | None = None) -> list[Block]:
    """The report of a comparison. Raises UserError if a run has been deleted in the meantime."""
    name = experiment.name if experiment else f"Comparison of {len(found.rows)} runs"
    blocks: list[Block] = [Heading(redact(name), 1)]
    if experiment is not None:
        blocks.append(Text(f"Question: {experiment.question}"))
    blocks.append(
        Text(" ".join(found.answer) or "No verdict yet. It needs two finished scenarios with an eval loss.")
    )
    blocks += [*_verdict(found), *_results(store, found), *_samples(store, found)]
    blocks += _match_reports(store, found) if experiment is None else _scenarios(experiment)
    blocks += [*_settings(store, found), *_environment(experiment)]
    return blocks


def markdown(blocks: list[Block]) -> str:
    """The document as Markdown, with all text escaped."""
    return "\n\n".join(filter(None, map(_markdown, blocks))) + "\n"


def cells(group: Group, columns: Iterable[str]) -> tuple[str, ...]:
    """A group's row in the table of results: means over its finished runs, losses with their standard deviation."""
    figures = []
    for key in columns:
        value, spread = group.mean(key), group.spread(key)
        text = shown(key, value)
        figures.append(f"{text} ± {shown_spread(key, spread)}" if spread is not None and key in SPREAD else text)
    return (group.label, *figures)


def _verdict(found: Comparison) -> Iterator[Block]:
    if found.evidence:
        yield Heading("Evidence")
        yield Bullets(found.evidence)
    if found.warnings:
        yield Heading("Warnings")
        yield Bullets(found.warnings)


def _results(store: RunStore, found: Comparison) -> Iterator[Block]:
    header = tuple(title.split(",")[0] for title in found.columns.values())
    yield Heading("Results")
    seeds = max((len(group.rows) for group in found.groups), default=0)
    if seeds > 1:
        yield Text("Mean over seeds ± standard deviation.")
    yield Table(("Scenario", *header), tuple(cells(group, found.columns) for group in found.groups))
    yield Figure(CURVES_BLOCK, "The HTML report shows the curves. Their points:")
    yield _curves(store, found)
    yield Heading("Eval loss and cost", 3)
    yield Figure(PRICES_BLOCK, "")
    fronts = {price: found.front(price) for price in PRICES}
    yield Bullets(
        tuple(f"{PRICES[price]}, Pareto front: {', '.join(names)}." for price, names in fronts.items() if names)
    )
    yield from _ladders(found)
    if found.pairs:
        yield Heading("Pairwise comparison", 3)
        yield Bullets(tuple(pair.sentence for pair in found.pairs))
    yield Heading("All runs", 3)
    rows = tuple(
        (row.title, row.id, str(row.seed), row.state, f"{row.step:,}", *_figures(row, found.columns))
        for row in found.rows
    )
    yield Table(("Run", "Id", "Seed", "State", "Steps", *header), rows, texts=4)


def _ladders(found: Comparison) -> Iterator[Block]:
    """The eval loss of every scenario at every learning rate, as factors of the configured one."""
    climbed = [group for group in found.groups if group.ladder]
    if not climbed:
        return
    yield Heading("Learning-rate ladder", 3)
    yield Text("Mean eval loss at each factor of the configured rates; each scenario is compared at its best.")
    rungs = sorted({rung.rung for group in climbed for rung in group.ladder})
    rows = []
    for group in climbed:
        losses = {rung.rung: fmean(rung.losses) if rung.losses else None for rung in group.ladder}
        rows.append((group.name, *(shown("eval_loss", losses.get(rung)) for rung in rungs), group.best.name))
    yield Table(("Scenario", *(rung.name for rung in rungs), "Best"), tuple(rows))


def _curves(store: RunStore, found: Comparison) -> Table:
    """The eval loss of every group at a dozen steps, averaged over its runs."""
    means: dict[str, dict[int, list[float]]] = {}
    for group in found.groups:
        means[group.name] = {}
        for row in group.rows:
            steps, losses = store.get(row.id).history.evals.curve("eval_loss")
            for step, loss in zip(steps.tolist(), losses.tolist(), strict=True):
                means[group.name].setdefault(int(step), []).append(loss)
    every = sorted({step for losses in means.values() for step in losses})
    few = min(len(every), CURVE_STEPS)
    chosen = [every[round(n * (len(every) - 1) / max(few - 1, 1))] for n in range(few)]
    rows = tuple(
        (
            f"{step:,}",
            *(shown("eval_loss", fmean(found[step]) if step in found else None) for found in means.values()),
        )
        for step in chosen
    )
    return Table(("Eval loss at step", *means), rows)


def _samples(store: RunStore, found: Comparison) -> Iterator[Block]:
    """Held-out prompts and what the first run of each group answered: at every evaluation if it is the only one."""
    first = [(group.name, store.get(group.rows[0].id)) for group in found.groups if group.rows]
    read = [(name, samples.read(run.folder).thinned(CURVE_STEPS)) for name, run in first]
    answered = [(name, own) for name, own in read if own.answers]
    if not answered:
        return
    yield Heading("Samples")
    yield Text("Held-out prompts, answered greedily by the model as it trained.")
    # runs on other data have other prompts
    for prompt in dict.fromkeys(prompt for _, own in answered for prompt in own.prompts):
        rows = [("Reference", prompt.reference)]
        for name, own in answered:
            if prompt in own.prompts:
                chosen = own.answers if len(answered) == 1 else own.answers[-1:]
                at = own.prompts.index(prompt)
                rows += [(_when(name, item.step, len(answered)), item.answers[at].text) for item in chosen]
        yield Heading(prompt.text.replace("\n", " ")[:PROMPT_LENGTH] or "(no prompt)", 3)
        yield Table(("", "Answer"), tuple(rows), texts=2)


def _when(name: str, step: int, groups: int) -> str:
    when = f"step {step:,}" if step else "before training"
    return when if groups == 1 else f"{name}, {when}"


def _figures(row: Row, columns: Iterable[str]) -> tuple[str, ...]:
    return tuple(shown(key, getattr(row, key)) for key in columns)


def _scenarios(experiment: Experiment) -> Iterator[Block]:
    """Each scenario and what it matched."""
    yield Heading("Scenarios and match reports")
    for item in experiment.scenarios:
        yield Heading(str(item["title"]), 3)
        if item.get("same_as"):
            yield Text(f"Trains the same weights as “{item['same_as']}”, so it was not run again.")
            continue
        yield Text(" ".join(filter(None, (str(item.get("note", "")), str(item.get("budget", ""))))) or "–")
        yield from _match_table(item.get("receipts", []))
        for issue in item.get("issues", []):
            yield Text(f"Not run: {issue['problem']} {issue['fix']}")


def _match_reports(store: RunStore, found: Comparison) -> Iterator[Block]:
    yield Heading("Match reports")
    for group in found.groups:
        yield Heading(group.name, 3)
        yield from _match_table(store.get(group.rows[0].id).plan().get("receipts", []))


def _match_table(receipts: list[dict[str, Any]]) -> Iterator[Block]:
    rows = tuple((str(item["tick"]), str(item["treatment"]), str(item["note"])) for item in receipts)
    if rows:
        yield Table(("Module", "Training", "Matched"), rows, texts=3)


def _settings(store: RunStore, found: Comparison) -> Iterator[Block]:
    """The settings that differ, and the configuration that all of them share."""
    yield Heading("Settings")
    if found.differences:
        names = tuple(group.name for group in found.groups)
        rows = tuple((name, *values) for name, values in found.differences.items())
        yield Text("Settings that differ:")
        yield Table(("Setting", *names), rows, texts=len(names) + 1)
    if found.rows:
        config = store.get(found.rows[0].id).config
        assert config is not None
        shared = _without(clean(config.to_json()), {*found.differences, "title"})
        yield Text("Settings that all runs share:")
        yield Code(json.dumps(shared, ensure_ascii=False, indent=2))


def _without(value: dict[str, Any], paths: set[str], path: str = "") -> dict[str, Any]:
    kept = {}
    for key, item in value.items():
        where = f"{path}.{key}" if path else key
        if where not in paths:
            kept[key] = _without(item, paths, where) if isinstance(item, dict) else item
    return kept


def _environment(experiment: Experiment | None) -> Iterator[Block]:
    yield Heading("Environment")
    if experiment is None:
        yield Text("The machine on which this report was written:")
    facts = experiment.machine if experiment else machine()
    yield Table(("", ""), tuple(facts.items()), texts=2)
    yield Text(f"Written by LoRA Module Lab, {time.strftime('%Y-%m-%d')}.")


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {escape(block.text)}"
    if isinstance(block, Text):
        return escape(block.text)
    if isinstance(block, Bullets):
        return "\n".join(f"- {escape(item)}" for item in block.items)
    if isinstance(block, Code):
        return "```json\n" + block.text.replace("`", "\\u0060") + "\n```"
    if isinstance(block, Figure):
        return escape(block.without)
    rule = "|".join("---" if number < block.texts else "--:" for number in range(len(block.header)))
    lines = [" | ".join(map(escape, row)) for row in (block.header, *block.rows)]
    return "\n".join(
        f"| {line} |" if number != 1 else line for number, line in enumerate([lines[0], f"|{rule}|", *lines[1:]])
    )


def escape(text: str) -> str:
    """Text on one line, escaped for Markdown."""
    line = " ".join(redact(text).split())
    return re.sub(r"([\\`*_{}\[\]<>#!|~&])", r"\\\1", line)
