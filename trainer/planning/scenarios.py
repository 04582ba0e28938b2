"""Scenarios (named ticks), and sets of them that each answer one question about a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from trainer.common.errors import UserError
from trainer.config.schema import DataConfig, ModelConfig, RunConfig, Tick, Treatment, default_config
from trainer.models.checkpoint_format import with_checkpoint_quantization
from trainer.models.module_map import GROUP_TITLES, ModuleKind, ModuleMap

LINEAR_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Scenario:
    """A set of ticks with a name and a sentence about it."""

    key: str
    title: str
    note: str
    modules: tuple[Tick, ...]


def _ticks(names: tuple[str, ...], treatment: Treatment = "lora") -> tuple[Tick, ...]:
    return tuple(Tick(name, treatment) for name in names)


LORA = _ticks(LINEAR_NAMES)
HEAD = _ticks(("lm_head",), "full")
EMBEDDING = _ticks(("embed_tokens",), "full")
FC = _ticks(("fc1", "fc2"))
DOLLY = DataConfig(
    source="hub",
    path="databricks/databricks-dolly-15k",
    prompt_column="instruction",
    input_column="context",
    completion_column="response",
)
"""Rows with an instruction, a context that may be empty, and a response, rendered with the model's own template."""

SIX = (
    Scenario("1", "1 · LoRA + head", "LoRA on attention and MLP, the head in full.", LORA + HEAD),
    Scenario("2", "2 · LoRA + embedding", "LoRA on attention and MLP, the embedding in full.", LORA + EMBEDDING),
    Scenario(
        "3",
        "3 · LoRA + embedding + head",
        "LoRA on attention and MLP, embedding and head in full: the best in the reference study.",
        LORA + EMBEDDING + HEAD,
    ),
    Scenario("4", "4 · as 3, also fc1, fc2", "As 3, with LoRA on fc1 and fc2 too.", LORA + FC + EMBEDDING + HEAD),
    Scenario("5", "5 · LoRA only", "LoRA on attention and MLP, nothing in full.", LORA),
    Scenario("6", "6 · as 5, also fc1, fc2", "As 5, with LoRA on fc1 and fc2 too.", LORA + FC),
)


def study_job(model: str, chosen: Scenario) -> RunConfig:
    """The study's job with one of its scenarios on `model`; on the demo, with the demo's own data and settings.

    The study trained 15,000 rows in a persona's voice, in the columns of Dolly. Dolly's own rows are used
    unless `train --data-file` names others. The study used one learning rate, also for full training,
    and the paged 8-bit AdamW throughout.
    """
    config = replace(default_config(model), modules=chosen.modules)
    if model == "demo":
        return config
    rate = config.training.learning_rate
    training = replace(config.training, full_learning_rate=rate, optim="paged_adamw_8bit")
    return replace(config, data=DOLLY, training=training)


def starting_config(model: ModelConfig, module_map: ModuleMap | None) -> RunConfig:
    """The initial configuration for a model: ticks, quantization and max_length that suit it.

    `module_map`: None if the model cannot be read now; the ticks are then the study's seven names, which most models
    have.
    """
    config = default_config(model.name)
    config = replace(config, model=replace(config.model, revision=model.revision), modules=LORA)
    if module_map is None:
        return config
    longest = min(config.training.max_length, module_map.max_positions or config.training.max_length)
    config = replace(
        config,
        modules=starting_ticks(module_map),
        training=replace(config.training, max_length=longest),
    )
    return with_checkpoint_quantization(config, module_map.checkpoint)


def starting_ticks(module_map: ModuleMap) -> tuple[Tick, ...]:
    """Scenario 5 if the model has all its names, else LoRA on all linears of attention and MLP.

    Experts are not included: LoRA on all of them is large and cannot have dropout. A model without attention and MLP
    (Mamba) starts with the linears of its mixers.
    """
    if all((kind := module_map.get(tick.name)) and _takes_default_lora(kind) for tick in LORA):
        return LORA
    for groups in (("attention", "mlp"), ("other",)):
        if linears := [kind for kind in _linears(module_map, groups) if _takes_default_lora(kind)]:
            return _lora(linears)
    return ()


def _takes_default_lora(kind: ModuleKind) -> bool:
    """Whether LoRA on a kind works with the defaults."""
    return kind.class_name != "Parameter" and not kind.by_weight


def title_of(ticks: tuple[Tick, ...]) -> str:
    """The title of the built-in scenario with these ticks; empty if there is none."""
    return next((item.title for item in SIX if set(item.modules) == set(ticks)), "")


def scenario(key: str) -> Scenario:
    """The built-in scenario `key` ("1" to "6"). Raises KeyError if there is none."""
    return next(item for item in SIX if item.key == key)


@dataclass(frozen=True)
class ScenarioSet:
    """A question, and the function that makes its scenarios for a model."""

    key: str
    title: str
    question: str
    make: Callable[[ModuleMap], tuple[Scenario, ...]]


def six(module_map: ModuleMap) -> tuple[Scenario, ...]:
    """The study's six scenarios; if the model fuses projections, in two readings: by slices, and by name only."""
    fused = [name for name in LINEAR_NAMES if (kind := module_map.get(name)) is not None and kind.slice_of]
    if not fused:
        return SIX
    meant = tuple(replace(item, title=f"{item.title}, by slices") for item in SIX)
    return (*meant, *(_as_written(item, fused, module_map) for item in SIX))


def _as_written(item: Scenario, fused: list[str], module_map: ModuleMap) -> Scenario:
    """What PEFT does with the study's names: those inside fused modules silently match nothing."""
    ticks = tuple(tick for tick in item.modules if tick.name not in fused)
    matched = [tick.name for tick in ticks if module_map.get(tick.name)]
    result = f"only {_joined(matched)} match" if matched else "nothing matches"
    note = f"By name, {result}: this model fuses {_joined(fused)}."
    return Scenario(f"{item.key}w", f"{item.title}, by name", note, ticks)


def groups(module_map: ModuleMap) -> tuple[Scenario, ...]:
    """LoRA on attention, MLP, or both; embedding and head in full, as in the study."""
    attention, mlp = (_lora(_linears(module_map, (group,))) for group in ("attention", "mlp"))
    ends = tuple(Tick(kind.name, _first(kind, "full")) for kind in _trainable_kinds(module_map, ("embedding",)))
    scenarios = (
        Scenario("attention", "Attention", "LoRA on every linear of attention.", attention),
        Scenario("mlp", "MLP", "LoRA on every linear of the MLP.", mlp),
        Scenario("linear", "All linear", "LoRA on attention and MLP.", attention + mlp if attention and mlp else ()),
        Scenario("ends", GROUP_TITLES["embedding"], "Only embedding and head, in full.", ends),
    )
    return tuple(item for item in scenarios if item.modules)


def kinds(module_map: ModuleMap) -> tuple[Scenario, ...]:
    """Each kind alone, with LoRA if possible; slices instead of their fused modules."""
    split = {kind.slice_of for kind in module_map.kinds}
    alone = [
        kind for kind in _trainable_kinds(module_map, ("attention", "mlp", "embedding")) if kind.name not in split
    ]
    return tuple(
        Scenario(kind.name, kind.name, _kind_note(kind), (Tick(kind.name, _first(kind, "lora")),)) for kind in alone
    )


def layers(module_map: ModuleMap) -> tuple[Scenario, ...]:
    """LoRA on all linears of the first, the middle and the last third of the layers."""
    count, linears = module_map.layers, _linears(module_map, ("attention", "mlp"))
    if count < 3:
        raise UserError(f"This model has {count} layers, too few for thirds.", "Choose another set.", "data")
    edges = [round(count * part / 3) for part in range(4)]
    scenarios = []
    for name, start, end in zip(("first", "middle", "last"), edges, edges[1:], strict=False):
        one = end - start == 1
        ticks = tuple(
            Tick(kind.name, layers=f"{start}" if one else f"{start}-{end - 1}") for kind in linears if kind.layers
        )
        where = f"layer {start}" if one else f"layers {start}–{end - 1}"
        scenarios.append(Scenario(name, f"{name.title()} third", f"LoRA on all linears of {where}.", ticks))
    return tuple(scenarios)


SETS = (
    ScenarioSet(
        "six",
        "The six of the study",
        "Which of the study's six scenarios is worth its parameters? The study says 3.",
        six,
    ),
    ScenarioSet("groups", "Groups", "Attention, MLP, both, or embedding and head?", groups),
    ScenarioSet("kinds", "Each kind alone", "Which single kind of module teaches the most?", kinds),
    ScenarioSet("layers", "Thirds of the layers", "Which third of the layers teaches the most?", layers),
)


def _trainable_kinds(module_map: ModuleMap, group_names: tuple[str, ...]) -> list[ModuleKind]:
    """Trainable kinds of these groups."""
    return [kind for group in group_names for kind in module_map.group(group) if kind.treatments]


def _linears(module_map: ModuleMap, group_names: tuple[str, ...]) -> list[ModuleKind]:
    """Kinds of these groups that take LoRA, without slices."""
    trainable = _trainable_kinds(module_map, group_names)
    return [kind for kind in trainable if "lora" in kind.treatments and kind.slice_of is None]


def _lora(linears: list[ModuleKind]) -> tuple[Tick, ...]:
    return tuple(Tick(kind.name) for kind in linears)


def _first(kind: ModuleKind, preferred: Treatment) -> Treatment:
    """`preferred` if the kind allows it, else the other treatment."""
    other: Treatment = "full" if preferred == "lora" else "lora"
    return preferred if preferred in kind.treatments else other


def _kind_note(kind: ModuleKind) -> str:
    what = "LoRA on" if "lora" in kind.treatments else "In full:"
    return f"{what} {kind.name} alone" + (f", a slice of {kind.slice_of}." if kind.slice_of else ".")


def _joined(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
