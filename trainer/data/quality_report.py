"""The data report of a configuration: what the data is, what is wrong with it, and the training it gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from trainer.common import devices
from trainer.common.errors import Cure, Issue, UserError, Value
from trainer.common.formatting import plural
from trainer.common.progress import Progress
from trainer.config.schema import RunConfig, TrainingConfig
from trainer.data import lengths, packing
from trainer.data.checking import RejectedRow
from trainer.data.preparation import (
    DataSplit,
    LoadedData,
    grouped,
    line_numbers,
    load_data,
    no_counted_tokens_error,
    rejected_rows_error,
)
from trainer.data.rows.columns import SHAPES
from trainer.data.template_report import template_report, template_warnings
from trainer.planning.row_width import row_limit
from trainer.planning.schedule import Size, batch_size, steps_per_epoch, total_steps, total_tokens

MAX_LINES = 12
"""Lines of another shape that a warning lists."""
FEW_STEPS = 20
"""A run of fewer steps changes the model little."""


def report(
    config: RunConfig, tokenizer: Any, data_dir: Path, most: int | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Everything about the data that a person may want to know before Train. `most`: tokens the model can take.

    What keeps the data from being used stands in `issues`; nothing is raised for it.
    """
    try:
        found = load_data(
            config.data, tokenizer, config.training.max_length, config.training.seed, data_dir, progress
        )
    except UserError as error:
        return broken(error)
    train = found.train
    value = _account(found) | {
        "bad": [item._asdict() for item in found.bad],
        "bad_groups": [_group(reason, items) for reason, items in grouped(found.bad)],
        "template": template_report(found),
        "held_out": _held_out(found, config),
        "issues": [issue.to_json() for issue in issues(found, config)],
        "tokens": None,
        "batches": None,
        "training": None,
    }
    if len(train.chosen):
        value["tokens"] = tokens = _tokens(train, config.training.max_length, most)
        value["batches"] = _batches(train, config.training)
        value["training"] = _steps(config.training, tokens["examples"], tokens["total"])
    value["warnings"] = [issue.to_json() for issue in _warnings(found, value, config)]
    return value


def broken(error: UserError) -> dict[str, Any]:
    """The report of data that cannot be read at all."""
    issue = Issue("data", error.problem, error.fix)
    return {
        "rows": 0, "good": 0, "shape": "", "shapes": {}, "why": "", "files": [], "columns": [], "duplicates": 0,
        "undecided": 0, "left_out": {}, "unknown_roles": {}, "unused": {"columns": {}, "fields": {}, "media": {}},
        "bad": [], "bad_groups": [], "template": None, "held_out": None, "issues": [issue.to_json()],
        "tokens": None, "batches": None, "training": None, "warnings": [],
    }  # fmt: skip


def _steps(training: TrainingConfig, examples: int, tokens: int) -> dict[str, Any]:
    """How many steps a run takes over `examples` examples, which hold `tokens` tokens together."""
    size = Size(examples, tokens / examples if examples else 0.0)
    return {
        "steps_per_epoch": steps_per_epoch(training, examples),
        "steps": total_steps(training, examples),
        "tokens_per_epoch": tokens,
        "tokens": total_tokens(training, size),
    }


def _account(found: LoadedData) -> dict[str, Any]:
    account = found.train.checked.account
    undecided, left_out, unknown = 0, Counter[str](), Counter[str]()
    unused: dict[str, Counter[str]] = {"columns": Counter(), "fields": Counter(), "media": Counter()}
    for checked in found.checks:
        undecided += checked.account["undecided"]
        left_out.update(checked.account["left_out"])
        unknown.update(checked.account["unknown_roles"])
        for kind, counts in checked.account["unused"].items():
            unused[kind].update(counts)
    return {
        "rows": found.rows,
        "good": max(found.rows - len(found.bad) - undecided - left_out.total(), 0),
        "undecided": undecided,
        "left_out": dict(left_out),
        "unknown_roles": dict(unknown),
        "unused": {kind: dict(counts) for kind, counts in unused.items()},
        "shape": next(iter(account["shapes"]), ""),
        "shapes": account["shapes"],
        "why": account["why"],
        "files": account["files"],
        "columns": account["columns"],
        "duplicates": account["duplicates"],
    }


def _group(reason: str, items: Sequence[RejectedRow]) -> dict[str, Any]:
    return {"reason": reason, "count": len(items), "lines": line_numbers(items)}


def _tokens(part: DataSplit, max_length: int, most: int | None) -> dict[str, Any]:
    """Lengths and counts of the examples that train."""
    fitting = part.fitting(max_length)
    all_lengths = part.column("length")
    cut = np.minimum(fitting.column("length"), max_length)
    counted = lengths.counted_within(part.tokens.dataset(), max_length)[fitting.chosen]
    total = int(cut.sum())
    return {
        "examples": len(fitting.chosen),
        "total": total,
        "counted": int(counted.sum()),
        "share": float(counted.sum() / total) if total else 0.0,
        "max_length": max_length,
        "quantiles": lengths.quantiles(all_lengths),
        "histogram": lengths.histogram(all_lengths, max_length),
        "suggested_max_length": lengths.suggested(all_lengths, most),
        **lengths.cuts(all_lengths, part.column("first"), part.column("last"), max_length),
    }


def _batches(part: DataSplit, training: TrainingConfig) -> dict[str, Any] | None:
    found = part.fitting(training.max_length).column("length")
    if not len(found):
        return None
    on_gpu = devices.device().is_gpu
    limit = row_limit(training, on_gpu, lengths.size([np.minimum(found, training.max_length)]))
    layout = packing.Layout(training.per_device_train_batch_size, limit, fixed=on_gpu)
    filled = packing.fill(found, batch_size(training), layout, training.seed)
    way = training.packing
    if way == "auto":
        way = "bfd" if packing.is_worthwhile(filled, layout.fixed) else "off"
    return {"way": way, "fill": filled[way], "unpacked": filled["off"], "all": filled}


def _held_out(found: LoadedData, config: RunConfig) -> dict[str, Any]:
    part = found.held_out
    count = len(part.fitting(config.training.max_length).chosen) if part else 0
    return {"examples": count, "shared": found.shared}


def issues(found: LoadedData, config: RunConfig) -> list[Issue]:
    """What keeps a run of this configuration from starting."""
    problems = found.decisions
    usable = len(found.train.chosen)
    if found.bad and (config.data.bad_rows == "stop" or not usable):
        error = rejected_rows_error(found.bad, found.rows)
        skip: dict[str, Value] = {"data.bad_rows": "skip"} if usable else {}
        cures = (Cure(skip, plural(len(found.bad), "row")),) if usable else ()
        fix = error.fix if usable else "Fix them, or pick the columns by hand."
        if all("chat template" in item.reason for item in found.bad) and not usable:
            fix = "Choose a model whose chat template takes them, or the template chatml or plain."
        problems.append(Issue("data", error.problem, fix, skip, cures))
    if usable and not len(found.train.fitting(config.training.max_length).chosen):
        error = no_counted_tokens_error()
        problems.append(Issue("training.max_length", error.problem, error.fix))
    return problems


def _warnings(found: LoadedData, value: Mapping[str, Any], config: RunConfig) -> Iterator[Issue]:
    """What can be trained on, and may not be what was meant."""
    yield from _row_warnings(found, value)
    yield from template_warnings(value["template"], config.data)
    training, tokens = config.training, value["tokens"]
    if tokens is None:
        return
    yield from _length_warnings(tokens, training)
    if tokens["examples"] == 1:
        yield Issue("data", "There is a single example.", "The model will memorize it.")
    if value["training"]["steps"] < FEW_STEPS and tokens["examples"] and training.max_steps <= 0:
        yield _few_steps(training, tokens["examples"])
    if not value["held_out"]["examples"]:
        yield Issue("data.held_out", "Nothing is held out.", "There will be no eval loss.")


def _row_warnings(found: LoadedData, value: Mapping[str, Any]) -> Iterator[Issue]:
    if len(value["shapes"]) > 1:
        most, *others = value["shapes"]
        named = "; ".join(f"{SHAPES[shape]} in {_lines(found, shape)}" for shape in others)
        count = sum(value["shapes"][shape] for shape in others)
        problem = f"Most rows are {SHAPES[most]}, but {plural(count, 'row')} {'is' if count == 1 else 'are'} not: "
        yield Issue("data", f"{problem}{named}.", "Choose the columns yourself if they are read wrongly.")
    for checked in found.checks:
        yield from (Issue.from_json(issue) for issue in checked.account["assumed"])
        if several := checked.account["several_answers"]:
            yield Issue(
                "data.completion_column",
                f"{several['rows']:,} rows have several answers: each answer is an example of its own, "
                f"{several['examples']:,} in all.",
                "Keep one answer in a row if the others are worse.",
            )
    if value["duplicates"]:
        yield Issue("data", f"Exact copies of other rows: {value['duplicates']:,}.", "They count more than once.")
    if found.shared:
        yield Issue(
            "data.held_out",
            f"{found.shared:,} held-out examples are among the training examples, too.",
            "They are left out of the held-out part.",
        )


def _lines(found: LoadedData, shape: str) -> str:
    """Where the rows of a shape are, as a phrase."""
    places = [place for checked in found.checks for place in checked.account["other_shapes"].get(shape, ())]
    lines = line_numbers([RejectedRow(file, line, shape) for file, line in places])
    more = f" and {len(lines) - MAX_LINES:,} more" if len(lines) > MAX_LINES else ""
    return f"{'line' if len(lines) == 1 else 'lines'} {', '.join(map(str, lines[:MAX_LINES]))}{more}"


def _length_warnings(tokens: Mapping[str, Any], training: TrainingConfig) -> Iterator[Issue]:
    if tokens["nothing_counts"] and tokens["examples"]:
        yield Issue(
            "training.max_length",
            f"{tokens['nothing_counts']:,} examples are left out: nothing counts in their first "
            f"{training.max_length} tokens.",
            "Raise the maximum length.",
        )
    if tokens["answers_cut"]:
        yield Issue(
            "training.max_length",
            f"{tokens['answers_cut']:,} answers are cut off at {training.max_length} tokens: they never end.",
            f"A maximum length of {tokens['suggested_max_length']} fits.",
        )


def _few_steps(training: TrainingConfig, examples: int) -> Issue:
    """The warning about a run that ends before it learns much, with settings that give it FEW_STEPS steps."""
    steps, batch = total_steps(training, examples), batch_size(training)
    micro = min(8, training.per_device_train_batch_size)
    smaller = replace(training, gradient_accumulation_steps=1, per_device_train_batch_size=micro)
    epochs = max(training.num_train_epochs, ceil(FEW_STEPS / steps_per_epoch(smaller, examples)))
    smaller = replace(smaller, num_train_epochs=epochs)
    changes: dict[str, Value] = {
        "training.per_device_train_batch_size": micro,
        "training.gradient_accumulation_steps": 1,
        "training.num_train_epochs": epochs,
    }
    return Issue(
        "training.num_train_epochs",
        f"{examples:,} examples in batches of {batch} make {plural(steps, 'step')}: the model learns little.",
        f"Batches of {micro} and {epochs:g} epochs make {total_steps(smaller, examples):,} steps.",
        changes,
    )
