"""Blocks: what the layers of a model look like inside, and what comes before and after them.

Only the words live here; `flow.py` measures how data flows, `arrange.py` and `parts.py` make blocks of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

INPUT = -1
"""Stands among `takes` for the block's own input: what the block or layer before it gives."""
JOINS = ("add", "mix")

Cell = tuple[str, ...]
"""Kinds that one module holds: one, or the weights of a layer's experts."""


@dataclass(frozen=True)
class Part:
    """Modules that work together, such as an attention; or a join, where several outputs become one."""

    role: str
    """A group of the module map, `norm`, or one of JOINS: `add` is a plain sum, `mix` anything else."""
    name: str = ""
    """What the model calls the module that holds them; empty where none does."""
    rows: tuple[tuple[Cell, ...], ...] = ()
    """Names of kinds in the order of data flow: no cell takes from a cell of its own row, or of a later one."""
    takes: tuple[int, ...] = ()
    """Places of the parts in the block whose outputs it works on, or INPUT."""
    outside: tuple[str, ...] = ()
    """Names of kinds, or of stacks of layers, elsewhere in the model whose outputs it works on as well."""
    loose: tuple[str, ...] = ()
    """Names of kinds that belong to it and act somewhere inside: bare parameters, weights read without a call."""

    @property
    def kinds(self) -> tuple[str, ...]:
        return (*(name for row in self.rows for cell in row for name in cell), *self.loose)

    def to_json(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "name": self.name,
            "rows": [[list(cell) for cell in row] for row in self.rows],
            "takes": list(self.takes),
            "outside": list(self.outside),
            "loose": list(self.loose),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Part:
        return cls(
            role=value["role"],
            name=value["name"],
            rows=tuple(tuple(tuple(cell) for cell in row) for row in value["rows"]),
            takes=tuple(value["takes"]),
            outside=tuple(value["outside"]),
            loose=tuple(value["loose"]),
        )


@dataclass(frozen=True)
class Block:
    """Layers that look the same inside; or, without a stack, what runs before, between or after the layers."""

    stack: str = ""
    """Full name of the list that holds the layers; empty outside the layers."""
    layers: tuple[int, ...] = ()
    parts: tuple[Part, ...] = ()
    """Every part after those that it takes from."""
    gives: int = INPUT
    """Place of the part whose output is the block's."""
    measured: bool = True
    """False: data flow could not be followed. Then the parts are in the model's order, and `takes` says nothing."""
    follows: bool = True
    """Whether the block's input is what the block before it gives (the patterns of one stack count as one)."""

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(name for part in self.parts for name in part.kinds)

    def to_json(self) -> dict[str, Any]:
        return {
            "stack": self.stack,
            "layers": list(self.layers),
            "parts": [part.to_json() for part in self.parts],
            "gives": self.gives,
            "measured": self.measured,
            "follows": self.follows,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Block:
        return cls(
            stack=value["stack"],
            layers=tuple(value["layers"]),
            parts=tuple(Part.from_json(part) for part in value["parts"]),
            gives=value["gives"],
            measured=value["measured"],
            follows=value["follows"],
        )
