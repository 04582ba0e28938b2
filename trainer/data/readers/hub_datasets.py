"""Rows of a data set of the Hugging Face hub, by `datasets`. No code that comes with a data set is run.

Small ones are fetched whole and kept in `datasets`' own cache; large ones are read as a stream.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.common.errors import Issue, UserError, first_line
from trainer.config.schema import DataConfig
from trainer.data.readers.limits import Row, capped, sized
from trainer.models.locations import HUB_ID

LARGE = 2 * 2**30
"""Bytes of a data set from which on it is read as a stream."""
SPLIT = re.compile(r"([A-Za-z0-9_.-]+)(?:\[(\d*):(\d*)\])?")


@dataclass(frozen=True)
class HubData:
    """One split of one configuration of a data set, and which version of it this is."""

    name: str
    subset: str
    split: str
    version: str
    large: bool
    notes: tuple[str, ...] = ()
    warnings: tuple[Issue, ...] = ()

    def rows(self) -> Iterator[tuple[int, Row]]:
        """The rows. Raises UserError where they cannot be read."""
        return capped(sized(self._items(), self.name), self.name)

    def _items(self) -> Iterator[Any]:
        from datasets import load_dataset

        name, first, last = _parts(self.split)
        try:
            found = load_dataset(self.name, self.subset or None, split=name, streaming=self.large)
            yield from itertools.islice(iter(found), first, last)
        except UserError:
            raise
        except Exception as error:
            raise _unloadable(self.name, error) from error


def find(data: DataConfig, split: str) -> HubData:
    """Look a data set up. Raises UserError where it cannot be found or has no such split."""
    from datasets import load_dataset_builder

    _refuse_local(data.path)
    name, _, _ = _parts(split)
    try:
        builder = load_dataset_builder(data.path, data.subset or None)
    except Exception as error:
        raise _unloadable(data.path, error) from error
    splits = builder.info.splits or {}
    if splits and name not in splits:
        raise UserError(
            f"The data set {data.path} has no split {name}.", f"It has {', '.join(list(splits)[:20])}.", "data"
        )
    size = max(builder.info.dataset_size or 0, builder.info.download_size or 0)
    version = str(builder.hash or builder.cache_dir)
    return HubData(data.path, data.subset, split, version, size > LARGE)


def _parts(split: str) -> tuple[str, int, int | None]:
    """`train[10:500]` -> its name, first and last row. Raises UserError for what is no split."""
    match = SPLIT.fullmatch(split.strip())
    if match is None:
        raise UserError(
            f"“{split[:80]}” is not a valid split.", "Enter its name, such as train or train[:10000].", "data"
        )
    return match[1], int(match[2] or 0), int(match[3]) if match[3] else None


def _unloadable(name: str, error: Exception) -> UserError:
    return UserError(
        f"The data set {name} cannot be loaded: {first_line(error)[:200].rstrip('.')}.",
        "Check its name, its configuration and its split, and the network.",
        "data",
    )


def _refuse_local(name: str) -> None:
    """`load_dataset` takes paths, and the names of its own file readers, too. Raises UserError for those."""
    if not HUB_ID.fullmatch(name):
        raise UserError(f"“{name[:100]}” is not a hub data set id.", "Enter owner/name.", "data")
    if Path(name).exists():
        raise UserError(
            f"A folder “{name}” in the working folder hides the hub data set of that name.",
            "Move it away.",
            "data",
        )
