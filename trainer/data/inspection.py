"""What the page and the command line ask about a configuration's data: a report, what is wrong, single examples."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from trainer.common.errors import Issue, UserError
from trainer.common.progress import Progress
from trainer.config.schema import ModelConfig, RunConfig
from trainer.data import preview
from trainer.data.general_text import general_text
from trainer.data.lengths import size
from trainer.data.masking.mask_test import mask_test
from trainer.data.preparation import load_data
from trainer.data.quality_report import broken, issues, report
from trainer.models.added_tokens import add_tokens
from trainer.models.locations import files_stamp, load_config, load_tokenizer
from trainer.planning.schedule import Size


def data_report(
    config: RunConfig, models_dir: Path, data_dir: Path, progress: Progress | None = None
) -> dict[str, Any]:
    """The report of the data; problems of the model's tokenizer stand among its issues."""
    try:
        tokenizer, most = _tokenizer(config.model, models_dir)
    except UserError as error:
        return broken(error)
    return report(config, tokenizer, data_dir, most, progress)


def data_check(
    config: RunConfig, models_dir: Path, data_dir: Path, progress: Progress | None = None
) -> tuple[list[Issue], Size | None]:
    """What of the data keeps a run from starting, and how much it trains on; None where no run can start.

    Reads all of the data, unless they are known already.
    """
    most = config.training.max_length
    try:
        tokenizer, _ = _tokenizer(config.model, models_dir)
        found = load_data(
            config.data, tokenizer, config.training.max_length, config.training.seed, data_dir, progress
        )
    except UserError as error:
        return [Issue("data", error.problem, error.fix)], None
    problems = [*issues(found, config), *_general_text(config, tokenizer, data_dir)]
    parts = [part.fitting(most).column("length") for part in (found.train, found.held_out) if part is not None]
    cut = [np.minimum(part, most) for part in parts]
    return problems, size(cut) if len(cut[0]) and not problems else None


def _general_text(config: RunConfig, tokenizer: Any, data_dir: Path) -> list[Issue]:
    """What is wrong with a file of general text."""
    try:
        general_text(config.data, tokenizer, config.training.max_length, data_dir)
    except UserError as error:
        return [Issue("data.general_text", error.problem, error.fix)]
    return []


def data_example(config: RunConfig, which: str, models_dir: Path, data_dir: Path) -> dict[str, Any]:
    """One training example, token by token. Raises UserError where there is none."""
    tokenizer, _ = _tokenizer(config.model, models_dir)
    return preview.examples(config, tokenizer, data_dir, which)


def data_mask_test(config: RunConfig, which: str, models_dir: Path, data_dir: Path) -> dict[str, Any]:
    """One training example against serving, see `mask_test`. Raises UserError where there is none."""
    tokenizer, _ = _tokenizer(config.model, models_dir)
    found, number = preview.find(config, tokenizer, data_dir, which)
    part = found.train
    row = part.tokens.dataset()[int(part.chosen[number])]["row"]
    example = orjson.loads(part.checked.dataset()[row]["example"])
    tested = mask_test(example, found.template, config.data, config.training.max_length)
    return {"number": number, "of": len(part.chosen), **tested}


def _tokenizer(model: ModelConfig, models_dir: Path) -> tuple[Any, int | None]:
    """The tokenizer with the new tokens, and how many tokens the model can take."""
    return _read(model, models_dir, files_stamp(model, models_dir))


@lru_cache(2)
def _read(model: ModelConfig, models_dir: Path, _stamp: object) -> tuple[Any, int | None]:
    """As `_tokenizer`, kept until the model has another stamp."""
    text = load_config(model, models_dir).get_text_config()
    tokenizer = load_tokenizer(model, models_dir)
    if model.new_tokens:
        add_tokens(tokenizer, model.new_tokens)
    most = getattr(text, "max_position_embeddings", None)
    return tokenizer, most if isinstance(most, int) and most > 0 else None
