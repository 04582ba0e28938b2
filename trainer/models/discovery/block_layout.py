"""Builds blocks from a model's measured data flow: parts, joins, and layers with the same structure.

Modules form a part when they lie in one module that holds no other group, or when one feeds the other within
a group. A norm is a part of its own, unless all its inputs and consumers are in one part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from trainer.models.block_graph import Block, Part
from trainer.models.discovery.block_parts import Draft, KindsByModule, join
from trainer.models.discovery.data_flow import INPUT as ENTRY
from trainer.models.discovery.data_flow import Call, Summands, names_of, one_expert, stack_of
from trainer.models.discovery.grouping import Grouping
from trainer.models.discovery.probing import ProbeResult
from trainer.models.module_map import ModuleKind

_OUTPUT = "output"
"""Stands for the layer's output among consumers."""


def build_blocks(kinds: list[ModuleKind], grouping: Grouping, probed: ProbeResult) -> tuple[Block, ...]:
    """Blocks in execution order, those of a stack by their first layers."""
    return tuple(BlockBuilder(kinds, grouping, probed).blocks())


class BlockBuilder:
    def __init__(self, kinds: list[ModuleKind], grouping: Grouping, probed: ProbeResult) -> None:
        self.modules, self.probed, self.flow = grouping.modules, probed, probed.flow
        self.kinds = [kind for kind in kinds if kind.slice_of is None]
        self.kinds_of: KindsByModule = defaultdict(list)
        """The kinds of each module that holds parameters; experts in a list count as one."""
        for kind in self.kinds:
            for holder in dict.fromkeys(one_expert(_holder(kind, name)) for name in kind.modules):
                self.kinds_of[holder].append(kind)

    def blocks(self) -> Iterator[Block]:
        """Blocks outside the layers and of layer stacks, in execution order."""
        segments = list(self._segments())
        before: set[str] = set()  # modules whose output the previous block may return
        for number, (stack, calls) in enumerate(segments):
            if stack:
                firsts = [name for name in self.flow.fed if stack_of(name) == stack]
                fed = names_of(self.flow.fed.get(firsts[0], ()))
                patterns = [self._layer(name) for name in firsts]
                yield from self._merged(
                    [replace(block, follows=bool(fed) and fed <= before) for block in patterns], firsts
                )
                before = set(firsts)
            else:
                after = segments[number + 1][0] if number + 1 < len(segments) else ""
                first = next((name for name in self.flow.fed if after and stack_of(name) == after), "")
                block = self._outside(calls, before, self.flow.fed.get(first, ()))
                yield block
                before = {call.module for call in calls}
        yield from self._unplaced()

    def _segments(self) -> Iterator[tuple[str, list[Call]]]:
        """(stack, its calls), with an empty name for calls outside the layers."""
        done: set[str] = set()
        outside: list[Call] = []
        for call in self.flow.calls:
            stack = stack_of(call.layer)
            if not stack:
                outside.append(call)
            elif stack not in done:
                if outside:
                    yield "", outside
                outside = []
                done.add(stack)
                yield stack, []
        if outside:
            yield "", outside

    # ---- outside the layers: every module is a part

    def _outside(self, calls: list[Call], before: set[str], gives: Summands) -> Block:
        inputs = dict.fromkeys(before, ENTRY)
        moved = [
            replace(call, takes=_renamed(call.takes, inputs), beside=names_of(_renamed((call.beside,), inputs)))
            for call in calls
        ]
        drafts = [Draft(self._role(call), [call]) for call in moved]
        known = {call.module for call in calls}
        follows = all(not call.takes or names_of(call.takes) & (known | {ENTRY}) for call in moved)
        gives = tuple(summand & known for summand in gives if summand & known)
        return replace(
            join(drafts, "", (), gives or (frozenset({calls[-1].module}),), self.kinds_of), follows=follows
        )

    # ---- inside a layer

    def _layer(self, name: str) -> Block:
        calls = [call for call in self.flow.calls if call.layer == name]
        followed = [call for call in calls if call.takes]
        drafts = self._drafts(followed, name)
        loose = self._loose(followed, name)
        measured = name in self.flow.gives and bool(followed) and not any(call.again for call in calls)
        measured = measured and self._place(loose, drafts, name)
        number = int(name.rpartition(".")[2])
        if measured:
            block = join(drafts, stack_of(name), (number,), self.flow.gives[name], self.kinds_of)
            if block.measured:
                return block
        return self._plain(calls, name)

    def _drafts(self, calls: list[Call], layer: str) -> list[Draft]:
        heavy = [call for call in calls if not self._is_light(call.module)]
        root = {call.module: self._root(call, heavy, layer) for call in heavy}
        own, group = dict(root), {call.module: self._group(call) for call in heavy}
        for call in heavy:  # one feeds the other within a group: fc1, then fc2
            if len(call.takes) == 1 and group[call.module] in ("attention", "mlp"):
                for source in sorted(names_of(call.takes) & root.keys()):
                    if group[source] == group[call.module]:
                        old, new = root[call.module], root[source]
                        root.update({name: new for name, now in root.items() if now == old})
        self._take_in([call.module for call in calls if call.module not in root], root, calls, layer)
        drafts: dict[str, Draft] = {}
        for call in calls:
            draft = drafts.setdefault(root.get(call.module, call.module), Draft(self._role(call)))
            draft.calls.append(call)
            if call.module in own:
                draft.roots |= {own[call.module]} - {call.module}
                draft.role = draft.role if draft.role in ("attention", "mlp") else group[call.module]
        return list(drafts.values())

    def _root(self, call: Call, heavy: list[Call], layer: str) -> str:
        """The highest module below the layer that holds this one, and none of another group."""
        parts = call.module.split(".")
        start = layer.count(".") + 2 if call.module.startswith(layer + ".") else len(parts)
        for end in range(start, len(parts)):
            holder = ".".join(parts[:end])
            inside = {self._group(other) for other in heavy if other.module.startswith(holder + ".")}
            if len(inside - {"other"}) <= 1 and not isinstance(self.modules.get(holder), nn.ModuleList):
                return holder
        return call.module

    def _take_in(self, light: list[str], root: dict[str, str], calls: list[Call], layer: str) -> None:
        """Assign norms to a part if all their neighbors belong to it."""
        around: dict[str, set[str]] = {name: set() for name in light}
        here = {ENTRY, *(call.module for call in calls)}
        for call in calls:
            for source in (names_of(call.takes) | call.beside) & here:
                if call.module in around:
                    around[call.module].add(source)
                if source in around:
                    around[source].add(call.module)
        for source in names_of(self.flow.gives.get(layer, ())) & around.keys():
            around[source].add(_OUTPUT)
        found = True
        while found:
            found = False
            for name in light:
                roots = {root.get(other, "") for other in around[name]}
                if name not in root and len(roots) == 1 and roots != {""}:
                    root[name] = roots.pop()
                    found = True

    def _loose(self, calls: list[Call], layer: str) -> list[tuple[str, ModuleKind]]:
        """(Holder, kind) of parameters that a layer reads without a traceable call."""
        followed = {kind.name for call in calls for kind in self.kinds_of.get(call.module, ())}
        return [
            (holder, kind)
            for holder, kinds in self.kinds_of.items()
            if f"{holder}.".startswith(f"{layer}.")
            for kind in kinds
            if kind.name not in followed and self._is_read(holder, kind)
        ]

    def _place(self, loose: list[tuple[str, ModuleKind]], drafts: list[Draft], layer: str) -> bool:
        """Add them to the parts that they belong to; False if one of them would be a part by itself."""
        for holder, kind in loose:
            around = [draft for draft in drafts if any(f"{holder}.".startswith(f"{root}.") for root in draft.roots)]
            inside = [draft for draft in drafts if any(f"{root}.".startswith(f"{holder}.") for root in draft.roots)]
            if around:
                draft = around[0]
            elif kind.group in ("attention", "mlp") or kind.class_name != "Parameter":
                return False
            elif inside and holder != layer:
                draft = inside[0]
            else:
                draft = Draft("other")
                drafts.append(draft)
            if kind.name not in draft.loose:
                draft.loose.append(kind.name)
        return True

    def _plain(self, calls: list[Call], layer: str) -> Block:
        """The kinds of a layer in model order, for layers whose data flow could not be traced."""
        number = int(layer.rpartition(".")[2])
        ran = {call.module for call in calls}
        parts: dict[str, Part] = {}
        for holder, kinds in self.kinds_of.items():
            if not (holder.startswith(layer + ".") or holder == layer):
                continue
            names = tuple(kind.name for kind in kinds if holder in ran or self._is_read(holder, kind))
            top = ".".join(holder.split(".")[: layer.count(".") + 2])
            if names:
                old = parts.get(top, Part(kinds[0].group, top.removeprefix(f"{layer}.") if top != holder else ""))
                role = old.role if old.role != "other" else kinds[0].group
                parts[top] = replace(old, role=role, rows=(*old.rows, (names,)))
        return Block(stack_of(layer), (number,), tuple(parts.values()), measured=False)

    def _merged(self, blocks: list[Block], firsts: list[str]) -> list[Block]:
        """Merge layers that repeat one another, or have equal structure and shapes, into one block."""
        merged: dict[object, Block] = {}
        for block, first in zip(blocks, firsts, strict=True):
            repeats = [int(twin.rpartition(".")[2]) for twin, of in self.probed.twins.items() if of == first]
            shapes = tuple(self._shape(name, first) for name in block.kinds)
            key = (block.parts, block.measured, shapes)
            old = merged.get(key, replace(block, layers=()))
            merged[key] = replace(old, layers=tuple(sorted((*old.layers, *block.layers, *repeats))))
        return list(merged.values())

    def _shape(self, name: str, layer: str) -> object:
        kind = next(kind for kind in self.kinds if kind.name == name)
        inside = (
            shape for module, shape in zip(kind.modules, kind.shapes, strict=True) if module.startswith(layer + ".")
        )
        return next(inside, None)

    def _unplaced(self) -> Iterator[Block]:
        """Kinds outside the layers that are read without a traceable call."""
        called = {call.module for call in self.flow.calls}
        layers = tuple(f"{name}." for name in (*self.flow.fed, *self.probed.twins))
        names = [
            kind.name
            for holder, kinds in self.kinds_of.items()
            if holder not in called and not f"{holder}.".startswith(layers)
            for kind in kinds
            if self._is_read(holder, kind)
        ]
        if names:
            rows = tuple(((name,),) for name in dict.fromkeys(names))
            yield Block(parts=(Part("other", rows=rows),), measured=False, follows=False)

    # ---- what a module is

    def _is_read(self, holder: str, kind: ModuleKind) -> bool:
        """Whether text reaches the kind's parameters in `holder`."""
        if kind.treatments:
            return True
        own = self.modules[holder]._parameters if holder in self.modules else {}
        return any(self.probed.has_parameter(self.probed.read, holder, key) for key in own)

    def _is_light(self, name: str) -> bool:
        module = self.modules.get(name)
        own = [] if module is None else [p for p in module._parameters.values() if p is not None]
        return bool(own) and all(parameter.dim() < 2 for parameter in own)

    def _group(self, call: Call) -> str:
        home = self.kinds_of.get(call.module)
        return home[0].group if home else "other"

    def _role(self, call: Call) -> str:
        module = self.modules.get(call.module)
        named = f"{call.module.rpartition('.')[2]} {type(module).__name__}".lower()
        return "norm" if self._is_light(call.module) and ("norm" in named or "ln_" in named) else self._group(call)


def _holder(kind: ModuleKind, name: str) -> str:
    return name.rpartition(".")[0] if kind.class_name == "Parameter" else name


def _renamed(summands: Summands, names: dict[str, str]) -> Summands:
    return tuple(frozenset(names.get(source, source) for source in summand) for summand in summands)
