"""The picture of a model's blocks: the data from which `block_picture.js` draws a module map."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from trainer.service.models import INPUT, JOINS, Block, ModuleKind, ModuleMap, Part

TITLES = {"attention": "Attention", "mlp": "MLP", "norm": "Norm", "embedding": "Embedding"}
UNMEASURED = "The data flow in these layers could not be traced, so their modules are in the model's order."
ELSEWHERE = "Used elsewhere in the model."


def picture(module_map: ModuleMap) -> list[dict[str, Any]]:
    """Sections from the input to the head; all patterns of one stack of layers share a frame."""
    sections: list[dict[str, Any]] = []
    for block in module_map.blocks:
        if not block.stack or not sections or sections[-1]["stack"] != block.stack:
            count = sum(
                len(other.layers) for other in module_map.blocks if block.stack and other.stack == block.stack
            )
            sections.append({"stack": block.stack, "count": count, "follows": block.follows, "patterns": []})
        sections[-1]["patterns"].append(_pattern(block, module_map))
    return sections


def ranges(numbers: tuple[int, ...]) -> str:
    """Layer numbers in short: `0–2, 5`, or `every 4th from 3 to 31`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    steps = {second - first for first, second in pairwise(numbers)}
    if len(runs) > 3 and len(steps) == 1:
        return f"every {_ordinal(steps.pop())} from {numbers[0]} to {numbers[-1]}"
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in runs)


def _pattern(block: Block, module_map: ModuleMap) -> dict[str, Any]:
    nodes = [number for number, part in enumerate(block.parts) if part.rows or part.role in JOINS]
    rank = _ranks(block, nodes)
    rows: dict[int, list[int]] = {}
    for number in nodes:
        rows.setdefault(rank[number] if block.measured else number, []).append(number)
    return {
        "layers": list(block.layers),
        "title": ranges(block.layers),
        "note": "" if block.measured else UNMEASURED if block.stack else ELSEWHERE,
        "measured": block.measured,
        "lanes": _lanes([(rank[take], rank[n]) for n in nodes for take in block.parts[n].takes]),
        "rows": [rows[key] for key in sorted(rows)],
        "parts": [_part(part, block, module_map) for part in block.parts],
        "gives": block.gives,
        "aside": [_unit(name, block, module_map) for part in block.parts if not part.rows for name in part.loose],
    }


def _ranks(block: Block, nodes: list[int]) -> dict[int, int]:
    """The longest path from the input to each part; parts of one rank are drawn side by side."""
    rank = {INPUT: -1}
    for number in nodes:
        rank[number] = 1 + max((rank[take] for take in block.parts[number].takes), default=-1)
    return rank


def _lanes(lines: list[tuple[int, int]]) -> int:
    """The largest number of lines that pass by other parts side by side."""
    passing = [(start, end) for start, end in lines if end - start > 1]
    return max((sum(start <= row < end for start, end in passing) for row, _ in passing), default=0)


def _part(part: Part, block: Block, module_map: ModuleMap) -> dict[str, Any]:
    rows = part.rows if block.measured else (tuple(cell for row in part.rows for cell in row),)
    return {
        "role": part.role,
        "title": TITLES.get(part.role, ""),
        "name": part.name,
        "takes": list(part.takes),
        "outside": bool(part.outside),
        "says": _says(part, block),
        "rows": [[[_unit(name, block, module_map) for name in cell] for cell in row] for row in rows if row],
        "loose": [_unit(name, block, module_map) for name in part.loose] if part.rows else [],
    }


def _says(part: Part, block: Block) -> str:
    """The inputs of a part, in words."""
    if not block.measured:
        return ""
    names = [*(_called(block, take) for take in part.takes), *part.outside]
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    if part.role in JOINS:
        return f"{'Sum' if part.role == 'add' else 'Mix'} of {listed}"
    return f"takes {listed}" if names else ""


def _called(block: Block, place: int) -> str:
    if place == INPUT:
        return "the input"
    part = block.parts[place]
    return "the sum before" if part.role in JOINS else part.name or " + ".join(part.kinds[:2])


def _unit(name: str, block: Block, module_map: ModuleMap) -> dict[str, Any]:
    """One kind as it appears in these layers."""
    kind = module_map.get(name)
    assert kind is not None
    inside = list(_inside(kind, block))
    shapes = {shape for _, shape in inside}
    per_layer = len(inside) // (max(len(block.layers), 1) * block.kinds.count(name))  # a kind may appear twice
    slices = [
        {"name": part.name, "label": part.name.removeprefix(f"{name}."), "share": part.shape[0]}
        for part in module_map.slices(name)
    ]
    return {
        "name": name,
        "holder": _holder(kind),
        "shape": _shape(shapes.pop()) if len(shapes) == 1 else "",
        "times": per_layer if per_layer > 1 else 0,
        "slices": slices,
        "tied": kind.tied_to or "",
        "frozen": not kind.treatments,
    }


def _inside(kind: ModuleKind, block: Block) -> Iterator[tuple[str, tuple[int, ...]]]:
    """A kind's modules in these layers with their shapes; outside the layers, all its modules."""
    layers = tuple(f"{block.stack}.{number}." for number in block.layers)
    for module, shape in zip(kind.modules, kind.shapes, strict=True):
        if not block.stack or module.startswith(layers):
            yield module, shape


def _holder(kind: ModuleKind) -> str:
    """The module that holds a kind's bare parameters, with its number of experts."""
    name = kind.modules[0].split(".")[-2] if kind.class_name == "Parameter" else ""
    return f"{name} × {kind.shape[0]}" if len(kind.shape) == 3 else name


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(f"{part:,}" for part in shape)


def _ordinal(number: int) -> str:
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number, 'th') }"
