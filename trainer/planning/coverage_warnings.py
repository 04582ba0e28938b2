"""Warnings about ticks that reach only part of a model, with figures from its module map.

No warning for ticks with explicit layers, which are deliberate, or for LoRA on every attention and MLP linear, the
usual choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trainer.common.errors import Issue
from trainer.common.formatting import percent
from trainer.config.schema import RunConfig, Tick
from trainer.models.module_map import ModuleKind, ModuleMap
from trainer.planning.parameter_counts import trainable_count
from trainer.planning.targets import Target

FIELD = "modules"
Ticked = list[tuple[Tick, ModuleKind]]


def coverage(config: RunConfig, module_map: ModuleMap, targets: Sequence[Target]) -> list[Issue]:
    """Warnings about what the ticks of `config` leave out, and about debated choices among what they train.

    `targets`: the resolved ticks, only used to count LoRA parameters on experts.
    """
    found = [(tick, module_map.get(tick.name)) for tick in config.modules]
    ticked = [(tick, kind) for tick, kind in found if kind is not None and tick.treatment in kind.treatments]
    issues = [
        _few_layers(ticked, module_map),
        _attention_only(ticked, module_map),
        _experts_left_out(ticked, module_map),
        _experts_trained(config, ticked, module_map, targets),
        _recurrent(ticked, module_map),
    ]
    return [issue for issue in issues if issue is not None]


def routed_experts(module_map: ModuleMap) -> list[ModuleKind]:
    """Kinds that hold the weights of the experts that a router chooses from, (experts, out, in) each."""
    return [
        kind
        for kind in module_map.group("mlp")
        if kind.class_name == "Parameter" and len(kind.shape) == 3 and kind.shape[0] > 1
    ]


def _few_layers(ticked: Ticked, module_map: ModuleMap) -> Issue | None:
    """Modules of hybrids exist in some layers only: attention in 4 of Nemotron-H's 52, say.

    Layers in which nothing can be ticked do not count, such as the cross-attention layers of Llama 3.2 Vision.
    """
    layered = [kind for _, kind in ticked if kind.layers]
    trainable = [kind for kind in module_map.kinds if kind.layers and kind.treatments and not kind.slice_of]
    if not layered or any(tick.layers for tick, _ in ticked) or len(_stacks(trainable)) > 1:
        return None
    reached = {layer for kind in layered for layer in kind.layers}
    if len(reached) >= module_map.layers:
        return None
    beyond = [kind for kind in trainable if "lora" in kind.treatments and {*kind.layers} - reached]
    if not beyond:
        return None
    others = [kind for kind in beyond if not {*kind.layers} & reached] or beyond
    problem = f"The ticks reach {len(reached)} of {module_map.layers} layers: {_names(layered)} exist in no other."
    return Issue(FIELD, problem, f"Tick {_names(others)} to train the other layers, too.")


def _attention_only(ticked: Ticked, module_map: ModuleMap) -> Issue | None:
    groups = {kind.group for _, kind in ticked}
    mlp = [kind for kind in module_map.group("mlp") if "lora" in kind.treatments and not kind.slice_of]
    if "attention" not in groups or "mlp" in groups or not mlp:
        return None
    what = "Attention only" if groups == {"attention"} else "No MLP module is ticked"
    problem = f"{what}: the MLP holds {_share(mlp, module_map)} of the parameters."
    if {kind.name for kind in mlp} & {kind.name for kind in routed_experts(module_map)}:
        return Issue(FIELD, problem, f"Common for MoE models; tick {_names(mlp)} to train the rest.")
    why = "QLoRA (arXiv 2305.14314) needed LoRA on all linears to match full fine-tuning."
    return Issue(FIELD, problem, f"Tick {_names(mlp)}, too: {why}")


def _experts_left_out(ticked: Ticked, module_map: ModuleMap) -> Issue | None:
    experts = [kind for kind in routed_experts(module_map) if kind.treatments]
    reached = [kind for _, kind in ticked if kind.group == "mlp"]
    if not reached or not experts or {kind.name for kind in reached} & {kind.name for kind in experts}:
        return None
    what = "the shared experts only" if all("shared" in kind.modules[0] for kind in reached) else _names(reached)
    share = _share(experts, module_map)
    problem = f"The MLP ticks reach {what}: the routed experts hold {share} of the parameters and stay frozen."
    return Issue(FIELD, problem, f"Tick {_names(experts)} to train them, or leave it if that is meant.")


def _experts_trained(
    config: RunConfig, ticked: Ticked, module_map: ModuleMap, targets: Sequence[Target]
) -> Issue | None:
    """Thinking Machines' “LoRA Without Regret” (2025) divides the rank by the experts that a token reaches."""
    experts = {kind.name for kind in routed_experts(module_map)}
    chosen = [(tick, kind) for tick, kind in ticked if kind.name in experts]
    own = [target for target in targets if target.kind.name in experts]
    active = module_map.forward.experts_per_token
    if not own or active < 2:
        return None
    rank, enough = max(tick.r or config.adapter.r for tick, _ in chosen), max(1, config.adapter.r // active)
    if rank <= enough:
        return None
    numbers = sum(trainable_count(target, config.adapter) for target in own)
    share = numbers / sum(trainable_count(target, config.adapter) for target in targets)
    problem = (
        f"Each of the {chosen[0][1].shape[0]} experts gets its own factors: {percent(share)} of the "
        f"trainable parameters. A token reaches {active} of them."
    )
    names = _names(kind for _, kind in chosen)
    return Issue(FIELD, problem, f"“LoRA Without Regret” divides the rank by that: r = {enough} for {names}.")


def _recurrent(ticked: Ticked, module_map: ModuleMap) -> Issue | None:
    """Linears of state-space, linear-attention and convolution mixers, in models that have attention as well."""
    mixers = [kind for _, kind in ticked if kind.recurrent]
    attention = [kind for kind in module_map.group("attention") if kind.treatments and not kind.recurrent]
    if not mixers or not attention:
        return None
    verb = "belong" if len(mixers) > 1 else "belongs"
    problem = f"{_names(mixers)} {verb} to recurrent mixers. Published results on training those go both ways."
    return Issue(FIELD, problem, "Run a race: the same ticks with and without them.")


def _stacks(kinds: Iterable[ModuleKind]) -> set[str]:
    """Names of the lists of layers that they lie in."""
    pairs = [pair for kind in kinds for pair in zip(kind.modules, kind.layers, strict=True)]
    return {name.partition(f".{layer}.")[0] for name, layer in pairs}


def _share(kinds: Iterable[ModuleKind], module_map: ModuleMap) -> str:
    return percent(sum(kind.parameters for kind in kinds) / module_map.parameters)


def _names(kinds: Iterable[ModuleKind]) -> str:
    names = list(dict.fromkeys(kind.name for kind in kinds))
    if len(names) > 5:
        return f"{', '.join(names[:4])} and {len(names) - 4} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
