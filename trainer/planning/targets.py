"""Resolves ticks to targets: the modules each tick matches and how they are trained, with a match report."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isclose, sqrt

from trainer.common.errors import Issue, UserError
from trainer.common.formatting import rate_text
from trainer.config.rules import parse_layers
from trainer.config.schema import AdapterConfig, RunConfig, Tick
from trainer.models.added_tokens import vocabulary_kinds
from trainer.models.module_map import ModuleKind, ModuleMap
from trainer.planning.name_suggestions import suggestion
from trainer.planning.schedule import peak_rate

TITLES = {"lora": "LoRA", "full": "full training"}


@dataclass(frozen=True)
class MatchReport:
    """What one tick really matched."""

    tick: str
    treatment: str
    matched: int
    of: int
    names: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class Slice:
    """The part of a fused module that one tick trains: output rows, and its own columns of `lora_B`."""

    rows: tuple[tuple[int, int], ...]
    columns: tuple[int, int]
    lr: float = 0.0
    """Peak learning rate of this block."""


@dataclass(frozen=True)
class Target:
    """One module (or expert parameter) and how it is trained."""

    module: str
    kind: ModuleKind
    treatment: str
    shape: tuple[int, ...]
    r: int = 0
    lora_alpha: float = 0.0
    slices: tuple[Slice, ...] = ()
    """Empty for the whole module; else only these parts of its LoRA are trainable."""
    lr: float = 0.0
    """Peak learning rate; of slices with different rates, the highest."""


@dataclass
class Resolution:
    """The result of resolving ticks on one model."""

    receipts: list[MatchReport] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    issues: list[Issue] = field(default_factory=list)
    warnings: list[Issue] = field(default_factory=list)


def resolve(config: RunConfig, module_map: ModuleMap) -> Resolution:
    """Match every tick against the map. Nothing is dropped: ticks that match nothing get a match report as well."""
    found = Resolution()
    ticked = {tick.name: tick for tick in config.modules}
    by_module: dict[str, list[Target]] = {}
    for number, tick in enumerate(config.modules):
        kind = module_map.get(tick.name)
        where = f"modules[{number}]"
        if kind is None:
            found.receipts.append(_unmatched(tick, module_map))
            continue
        problem = _problem(tick, kind, ticked, config) or _layers_problem(tick, kind, module_map)
        if problem:
            found.issues.append(replace(problem, field=where))
            found.receipts.append(MatchReport(tick.name, tick.treatment, 0, len(kind.modules), (), problem.problem))
            continue
        targets = _targets(tick, kind, module_map, config)
        found.receipts.append(_match_report(tick, kind, targets))
        for target in targets:
            parts = by_module.setdefault(target.module, [])
            if target not in parts:  # a tied weight ticked twice is one weight
                parts.append(target)
    for parts in by_module.values():
        if not parts[0].slices and len(parts) > 1:
            found.issues.append(_rate_issue(parts[0].kind, module_map))
            continue
        if parts[0].slices and not _one_scale(parts, config.adapter):
            found.issues.append(_scale_issue(parts))
            continue
        found.targets.append(_join(parts, config.adapter))
    if config.model.new_tokens:
        _resolve_new_tokens(config, module_map, found)
    return found


def _resolve_new_tokens(config: RunConfig, module_map: ModuleMap, found: Resolution) -> None:
    """Targets for the rows of new tokens, or a warning that they stay at their initial values."""
    count, names = len(config.model.new_tokens), []
    treated = {target.kind.name: target.treatment for target in found.targets}
    for kind in vocabulary_kinds(module_map):
        if kind.tied_to or treated.get(kind.name) == "full":
            continue
        if treated.get(kind.name) == "lora":
            problem = f"{kind.name} has LoRA, so its rows for new tokens cannot be trained."
            found.issues.append(Issue("modules", problem, f"Train {kind.name} in full, or remove its LoRA."))
        elif config.adapter.train_new_tokens:
            names.append(kind.modules[0])
            lr = peak_rate(config.training, "rows")
            found.targets.append(Target(kind.modules[0], kind, "rows", (count, kind.shape[1]), lr=lr))
        else:
            problem = f"The {count} new tokens have rows in {kind.name} that are not trained."
            found.warnings.append(
                Issue("model.new_tokens", problem, f"Set train_new_tokens, or tick {kind.name} full.")
            )
    if names:
        note = f"the {count} new rows of {' and '.join(names)}"
        found.receipts.append(MatchReport("new tokens", "rows", len(names), len(names), tuple(names), note))


def _targets(tick: Tick, kind: ModuleKind, module_map: ModuleMap, config: RunConfig) -> list[Target]:
    owner = module_map.get(kind.tied_to or "")
    lr = tick.lr or peak_rate(config.training, tick.treatment)
    if owner is not None and tick.treatment == "full":
        # one weight: training the head in full is training the embedding in full, and its own bias
        weight = Target(owner.modules[0], owner, "full", owner.shapes[0], lr=lr)
        bias = Target(kind.modules[0], kind, "full", (kind.parameters,), lr=lr)
        return [weight, bias] if kind.parameters else [weight]
    layers = _layers(tick, kind, module_map)
    r, alpha = tick.r or config.adapter.r, tick.lora_alpha or config.adapter.lora_alpha
    targets = []
    for number, module in enumerate(kind.modules):
        if kind.layers and kind.layers[number] not in layers:
            continue
        part = Target(module, kind, tick.treatment, kind.shapes[number], lr=lr)
        if tick.treatment == "lora":
            slices = (Slice(kind.rows, (0, r), lr),) if kind.rows is not None else ()
            part = replace(part, r=r, lora_alpha=alpha, slices=slices)
        targets.append(part)
    return targets


def _join(parts: list[Target], adapter: AdapterConfig) -> Target:
    """Join the slices of one fused module into one LoRA: ranks add up, each slice owns its columns of B."""
    if len(parts) == 1:
        return parts[0]
    start, slices = 0, []
    for part in parts:
        slices.append(Slice(part.slices[0].rows, (start, start + part.r), part.lr))
        start += part.r
    scale = _scale(parts[0], adapter)
    alpha = scale * (sqrt(start) if adapter.use_rslora else start)
    return replace(parts[0], r=start, lora_alpha=alpha, slices=tuple(slices), lr=max(part.lr for part in parts))


def _scale(target: Target, adapter: AdapterConfig) -> float:
    return target.lora_alpha / (sqrt(target.r) if adapter.use_rslora else target.r)


def _one_scale(parts: list[Target], adapter: AdapterConfig) -> bool:
    first = _scale(parts[0], adapter)
    return all(isclose(_scale(part, adapter), first, rel_tol=1e-9) for part in parts)


def _scale_issue(parts: list[Target]) -> Issue:
    names = ", ".join(part.kind.name for part in parts)
    return Issue(
        "modules",
        f"{names} are slices of {parts[0].kind.slice_of} and share one scale, but their alpha / r differ.",
        "Give them the same ratio of lora_alpha to r.",
    )


def _rate_issue(kind: ModuleKind, module_map: ModuleMap) -> Issue:
    """Tied kinds, both ticked full, that ask for different learning rates."""
    names = " and ".join([kind.name, *(other.name for other in module_map.kinds if other.tied_to == kind.name)])
    return Issue("modules", f"{names} share one weight, but their learning rates differ.", "Give both the same lr.")


def _problem(tick: Tick, kind: ModuleKind, ticked: dict[str, Tick], config: RunConfig) -> Issue | None:
    """Why this tick cannot be trained, if so. The caller fills in the field."""
    if tick.treatment not in kind.treatments:
        allowed = " or ".join(TITLES[item] for item in kind.treatments) or "no training"
        reason = kind.reason or f"It takes {allowed}."
        return Issue("", f"{kind.name} cannot take {TITLES[tick.treatment]}.", reason)
    if kind.slice_of in ticked:
        return Issue("", f"{kind.name} is a part of {kind.slice_of}, which is ticked too.", "Untick one of the two.")
    if tick.treatment == "lora":
        problem = _by_weight_problem(kind, config)
        if problem:
            return problem
    other = ticked.get(kind.tied_to or "")
    if other is not None and not other.treatment == tick.treatment == "full":
        return Issue(
            "", f"{kind.name} shares its weight with {kind.tied_to}, which is ticked too.", "Tick one of the two."
        )
    return None


def _by_weight_problem(kind: ModuleKind, config: RunConfig) -> Issue | None:
    """Limits of PEFT's `target_parameters` for weights that LoRA can only reach as parameters."""
    if kind.class_name != "Parameter" and not kind.by_weight:
        return None
    what = "expert parameters" if kind.class_name == "Parameter" else "treated as experts by PEFT"
    if config.adapter.lora_dropout > 0:
        problem = f"{kind.name} are {what}, whose LoRA cannot have dropout."
        return Issue("", problem, "Set lora_dropout to 0.", {"adapter.lora_dropout": 0.0})
    if config.adapter.use_dora:
        problem = f"{kind.name} are {what}, which DoRA cannot train."
        return Issue("", problem, "Turn use_dora off.", {"adapter.use_dora": False})
    if config.adapter.bias == "lora_only" and kind.bias:
        problem = f"{kind.name} are {what}, whose biases cannot be trained."
        return Issue("", problem, "Set bias to none.", {"adapter.bias": "none"})
    return None


def _layers(tick: Tick, kind: ModuleKind, module_map: ModuleMap) -> tuple[int, ...]:
    return parse_layers(tick.layers, max(module_map.layers, *(number + 1 for number in kind.layers), 1))


def _layers_problem(tick: Tick, kind: ModuleKind, module_map: ModuleMap) -> Issue | None:
    """Why the requested layers do not exist in this kind."""
    if tick.layers.strip() and not kind.layers:
        return Issue(
            "", f"{kind.name} is outside the layers, so “{tick.layers}” does not apply.", "Leave layers empty."
        )
    try:
        _layers(tick, kind, module_map)
    except UserError as error:
        return Issue("", f"{kind.name}, layers: {error.problem}", error.fix)
    return None


def _match_report(tick: Tick, kind: ModuleKind, targets: list[Target]) -> MatchReport:
    names = tuple(kind.modules) if kind.tied_to and targets else tuple(target.module for target in targets)
    unit = "layers" if kind.layers else ("module" if len(kind.modules) == 1 else "modules")
    note = f"{len(names)} of {len(kind.modules)} {unit}"
    if kind.rows is not None:
        note += f", as {_rows(kind)} of {kind.slice_of}"
    if kind.tied_to:
        note += f", tied to {kind.tied_to}: one weight for both"
    if tick.lr is not None:
        note += f", lr {rate_text(tick.lr)}"
    if not names:
        note = f"no layer of it lies in “{tick.layers}”"
    return MatchReport(tick.name, tick.treatment, len(names), len(kind.modules), names, note)


def _rows(kind: ModuleKind) -> str:
    rows = kind.rows or ()
    if len(rows) == 1:
        return f"rows {rows[0][0]:,}–{rows[0][1] - 1:,}"
    return f"{len(rows)} blocks of rows ({sum(end - start for start, end in rows):,} in all)"


def _unmatched(tick: Tick, module_map: ModuleMap) -> MatchReport:
    """The match report of a name that the model does not have, with a suggestion."""
    model = module_map.model_type or "this model"
    note = f"matches nothing: {model} has no {tick.name}{suggestion(tick.name, module_map)}"
    return MatchReport(tick.name, tick.treatment, 0, 0, (), note)
