"""The block graph: how the modules inside a model's layers, and before and after them, are connected.

Data types only; `discovery/data_flow.py` measures the data flow, `block_layout.py` and `block_parts.py` build blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

INPUT = -1
"""In `takes`: the block's own input, which is the output of the block or layer before it."""
JOINS = ("add", "mix")

Cell = tuple[str, ...]
"""Kinds held by one module: a single one, or the weights of a layer's experts."""


@dataclass(frozen=True)
class Part:
    """Modules that work together, such as an attention; or a join, where several outputs become one."""

    role: str
    """A group of the module map, `norm`, or one of JOINS: `add` is a plain sum, `mix` anything else."""
    name: str = ""
    """Name of the module that holds them, relative to the layer; empty if there is none."""
    rows: tuple[tuple[Cell, ...], ...] = ()
    """Names of kinds in data-flow order: a cell only takes input from earlier rows."""
    takes: tuple[int, ...] = ()
    """Indices of the parts whose outputs are its inputs, or INPUT."""
    outside: tuple[str, ...] = ()
    """Names of kinds or layer stacks elsewhere in the model whose outputs are also its inputs."""
    loose: tuple[str, ...] = ()
    """Kinds that belong to it without a place in the data flow: bare parameters, weights read without a call."""

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
    """In topological order: every part comes after its inputs."""
    gives: int = INPUT
    """Index of the part whose output is the block's output."""
    measured: bool = True
    """False if the data flow could not be traced. The parts are then in model order, without `takes`."""
    follows: bool = True
    """Whether the block's input is the output of the block before it (patterns of one stack count as one)."""

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
