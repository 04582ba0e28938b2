"""Turns drafts of parts into a block: inputs of every part, sums as joins, rows in data-flow order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from trainer.models.block_graph import INPUT, Block, Part
from trainer.models.discovery.data_flow import INPUT as ENTRY
from trainer.models.discovery.data_flow import Call, Summands, names_of, stack_of
from trainer.models.module_map import ModuleKind

KindsByModule = dict[str, list[ModuleKind]]
"""The kinds of each module that holds parameters."""


@dataclass
class Draft:
    """A part under construction."""

    role: str
    calls: list[Call] = field(default_factory=list)
    roots: set[str] = field(default_factory=set)
    """Full names of the modules that hold only this part's modules."""
    loose: list[str] = field(default_factory=list)


def join(drafts: list[Draft], stack: str, layers: tuple[int, ...], gives: Summands, kinds_of: KindsByModule) -> Block:
    """Connect drafts into a block; unmeasured if their inputs form a cycle."""
    owner = {call.module: number for number, draft in enumerate(drafts) for call in draft.calls}
    sums = [[_owned(call, owner, number, kinds_of) for call in draft.calls] for number, draft in enumerate(drafts)]
    takes = [{item for summands in own for summand in summands for item in summand} for own in sums]
    parts: list[Part] = []
    joins: dict[frozenset[int], int] = {}
    places: dict[str | int, int] = {INPUT: INPUT}
    while len(places) <= len(drafts):
        ready = (n for n in range(len(drafts)) if n not in places and _numbers(takes[n]) <= places.keys())
        number = next(ready, None)
        if number is None:
            return Block(stack, layers, measured=False)
        inputs = tuple(sorted(places[item] for item in _numbers(takes[number])))
        outside = tuple(sorted(item for item in takes[number] if isinstance(item, str)))
        fresh = [summands for summands in sums[number] if summands]
        if len(inputs) > 1 and not outside and all(_is_sum(summands, fresh[0]) for summands in fresh):
            inputs = (_join(parts, joins, inputs, "add"),)
        places[number] = len(parts)
        parts.append(_part(drafts[number], inputs, outside, f"{stack}.{layers[0]}" if layers else "", kinds_of))
    last = [
        {places[owner.get(source, INPUT)] for source in summand if not source or source in owner} for summand in gives
    ]
    given = tuple(sorted(set().union(*last)))
    if len(given) > 1:
        give = _join(parts, joins, given, "add" if all(len(summand) == 1 for summand in last) else "mix")
    else:
        give = given[0] if given else INPUT
    return Block(stack, layers, tuple(parts), give)


def _part(
    draft: Draft, takes: tuple[int, ...], outside: tuple[str, ...], layer: str, kinds_of: KindsByModule
) -> Part:
    name = draft.roots.copy().pop() if len(draft.roots) == 1 else ""
    return Part(
        role=draft.role,
        name=name.removeprefix(f"{layer}."),
        rows=_rows(draft.calls, kinds_of),
        takes=takes,
        outside=outside,
        loose=tuple(draft.loose),
    )


def _owned(call: Call, owner: dict[str, int], own: int, kinds_of: KindsByModule) -> list[frozenset[int | str]]:
    """Inputs of a call from outside its own part: summands of part numbers, INPUT, or other names."""

    def item(source: str) -> int | str:
        return INPUT if source == ENTRY else owner[source] if source in owner else _elsewhere(source, kinds_of)

    summands = [frozenset(map(item, summand)) for summand in call.takes]
    if call.beside:
        summands = [frozenset().union(*summands, map(item, call.beside))]
    return [summand - {own} for summand in summands if summand - {own}]


def _elsewhere(source: str, kinds_of: KindsByModule) -> str:
    home = kinds_of.get(source)
    return home[0].name if home else stack_of(source) or source


def _rows(calls: list[Call], kinds_of: KindsByModule) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """Kinds by their depth in the part: the longest chain of modules before them."""
    depth: dict[str, int] = {}
    rows: dict[int, list[tuple[str, ...]]] = defaultdict(list)
    for call in calls:
        before = [depth[source] for source in names_of(call.takes) | call.beside if source in depth]
        depth[call.module] = max(before, default=-1) + 1
        rows[depth[call.module]].append(tuple(kind.name for kind in kinds_of[call.module]))
    return tuple(tuple(dict.fromkeys(cells)) for _, cells in sorted(rows.items()))


def _numbers(items: Iterable[int | str]) -> set[int]:
    return {item for item in items if isinstance(item, int)}


def _is_sum(summands: list[frozenset[int | str]], of: list[frozenset[int | str]]) -> bool:
    return set(summands) == set(of) and all(len(summand) == 1 for summand in summands)


def _join(parts: list[Part], joins: dict[frozenset[int], int], inputs: tuple[int, ...], role: str) -> int:
    """Index of the join of these parts, built on the largest existing join of some of them."""
    wanted = frozenset(inputs)
    if wanted not in joins:
        inner = max((done for done in joins if done < wanted), key=len, default=None)
        if role == "add" and inner is not None:
            inputs = tuple(sorted((joins[inner], *(wanted - inner))))
        parts.append(Part(role, takes=inputs))
        joins[wanted] = len(parts) - 1
    return joins[wanted]
