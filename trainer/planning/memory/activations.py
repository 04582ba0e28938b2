"""Activation memory: what each layer saves for the backward pass, computed from the module map alone.

Frozen linears save nothing of their input. What does: norms (a float32 copy), attention (queries, keys, values and
output), the MLP's activation function and product, and trained modules (inputs of LoRA's A and B, of a fully trained
module).
Checked against autograd's saved tensors (`tests/planning/test_memory.py`): dense and mixture-of-experts transformers
within a few percent. Recurrent mixers (Mamba, linear attention) are treated as attention, a rough guess.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

from trainer.config.schema import RunConfig
from trainer.models.module_map import ModuleKind, ModuleMap
from trainer.planning.attention import FLEX, SDPA
from trainer.planning.row_width import packs
from trainer.planning.targets import Target

FLOAT32 = 4


@dataclass(frozen=True)
class ActivationSetup:
    """What determines activation sizes besides the model."""

    width: int
    """Bytes per element of the compute dtype."""
    on_gpu: bool
    quantization: str
    dropout: bool
    dora: bool
    checkpointing: bool
    """Some layers recompute their activations, so gradients flow through all of them."""
    attention: str = SDPA
    """The attention implementation."""
    masked: bool = False
    """SDPA gets a dense mask, so keys and values are repeated for each query head."""

    @classmethod
    def of(
        cls, config: RunConfig, width: int, on_gpu: bool, checkpointing: bool = False, attention: str = SDPA
    ) -> ActivationSetup:
        adapter = config.adapter
        return cls(
            width=width,
            on_gpu=on_gpu,
            quantization=config.model.quantization,
            dropout=adapter.lora_dropout > 0,
            dora=adapter.use_dora,
            checkpointing=checkpointing,
            attention=attention,
        )

    def masks(self, config: RunConfig, rows: int) -> bool:
        """Whether attention needs a dense mask for micro-batches of this many rows."""
        return self.attention == SDPA and (rows > 1 or packs(config.training))

    def repeats_keys(self, heads: int) -> bool:
        """Whether keys and values are repeated for each query head."""
        # transformers' FlexAttention does unless the number of heads is a power of two
        return self.masked or (self.attention == FLEX and heads & (heads - 1) != 0)

    @property
    def dropout_mask(self) -> int:
        """Bytes per element of the saved dropout mask."""
        return 0 if not self.dropout else 1 if self.on_gpu else FLOAT32

    def own_input(self, quantized: bool) -> bool:
        """Whether LoRA saves its own copy of its input, due to dropout or PEFT's cast."""
        by_bitsandbytes = quantized and self.quantization != "fp8"
        casts = self.width < FLOAT32 and not (by_bitsandbytes and self.on_gpu)
        return self.dropout or casts


class ActivationBytes(NamedTuple):
    """Bytes saved: per token, per pair of tokens in a row, and independent of the batch."""

    tokens: float = 0.0
    pairs: float = 0.0
    fixed: float = 0.0

    def plus(self, other: ActivationBytes) -> ActivationBytes:
        return ActivationBytes(self.tokens + other.tokens, self.pairs + other.pairs, self.fixed + other.fixed)

    def bytes(self, batch: int, length: int) -> float:
        return self.tokens * batch * length + self.pairs * batch * length**2 + self.fixed


@dataclass(frozen=True)
class Linear:
    """A linear, or one expert parameter; each token passes through `share` of it."""

    kind: ModuleKind
    out: int
    width: int
    target: Target | None
    share: float
    quantized: bool


@dataclass
class Layer:
    """A layer's norms and its blocks: linears with one parent, attention before MLP."""

    norms: list[tuple[str, int]] = field(default_factory=list)
    blocks: dict[str, list[Linear]] = field(default_factory=lambda: defaultdict(list))


def activations_by_layer(
    module_map: ModuleMap, targets: Iterable[Target], quantized: set[str], setup: ActivationSetup
) -> list[ActivationBytes]:
    """What each layer saves without checkpointing. `quantized`: names of the quantized modules.

    Layers before the first trained module need no gradient, so they save nothing.
    """
    trained = {target.module: target for target in targets}
    layers = _layers(module_map, trained, quantized)
    flows = setup.checkpointing or any(target.kind.class_name == "Embedding" for target in trained.values())
    found = []
    for number in sorted(layers):
        layer, before = layers[number], flows
        kept, silent = ActivationBytes(), 0
        for linears in layer.blocks.values():
            block = _block(
                module_map, linears, layer.norms if "attention" in linears[0].kind.group else [], setup, flows
            )
            kept = kept.plus(block)
            flows = flows or any(linear.target for linear in linears)
            silent += not flows
        found.append(kept.plus(_norms(module_map, layer, setup, 0 if before else silent + 1, flows)))
    return found


def cached_width(module_map: ModuleMap) -> int:
    """Elements per token of the keys and values of all layers, which generation caches."""
    blocks = [block for layer in _layers(module_map, {}, set()).values() for block in layer.blocks.values()]
    return sum(2 * _values_width(block, module_map) for block in blocks if block[0].kind.group == "attention")


def _values_width(linears: list[Linear], module_map: ModuleMap) -> int:
    """Elements per token of an attention's values, whose linears these are."""
    leaving = _leaving(linears, module_map.hidden_size)
    projected = sum(linear.out for linear in linears if linear is not leaving)
    inner = leaving.width if leaving else projected
    return min(inner, max(0, projected - inner) // 2)


def _layers(module_map: ModuleMap, trained: dict[str, Target], quantized: set[str]) -> dict[int, Layer]:
    layers: dict[int, Layer] = defaultdict(Layer)
    linears = [kind for kind in module_map.kinds if kind.group in ("attention", "mlp") and not kind.slice_of]
    for kind in linears:
        if not kind.layers or len(kind.shape) not in (2, 3):
            continue
        per_layer = max(1, len(kind.modules) // max(1, len(set(kind.layers))))
        for module, layer, shape in zip(kind.modules, kind.layers, kind.shapes, strict=True):
            experts = module_map.forward.experts_per_token
            share = float(experts) if len(shape) == 3 else min(1.0, experts / per_layer) if per_layer > 1 else 1.0
            linear = Linear(kind, shape[-2], shape[-1], trained.get(module), share, module in quantized)
            layers[layer].blocks[module.rpartition(".")[0]].append(linear)
    roots = {module.partition(f".{layer}.")[0] for kind in linears for module, layer in _first(kind)}
    for kind in module_map.kinds:
        if "norm" in kind.class_name.lower() and len(kind.shape) == 1:
            for module, layer in zip(kind.modules, kind.layers, strict=False):
                if layer in layers and module.partition(f".{layer}.")[0] in roots:
                    layers[layer].norms.append((module.rpartition(".")[2], kind.shape[0]))
    return layers


def _first(kind: ModuleKind) -> Iterable[tuple[str, int]]:
    return zip(kind.modules[:1], kind.layers[:1], strict=False)


def _norms(module_map: ModuleMap, layer: Layer, setup: ActivationSetup, without: int, flows: bool) -> ActivationBytes:
    """Norms over the hidden states: each saves its input, mostly in float32, and one value per token."""
    forward = module_map.forward
    count = sum(size == module_map.hidden_size for _, size in layer.norms) + forward.plain_norms
    kept = forward.norm_bytes_float32 if setup.width == FLOAT32 else forward.norm_bytes
    return ActivationBytes((kept * module_map.hidden_size + FLOAT32) * max(0, count - without) * flows)


def _block(
    module_map: ModuleMap, linears: list[Linear], norms: list[tuple[str, int]], setup: ActivationSetup, flows: bool
) -> ActivationBytes:
    leaving = _leaving(linears, module_map.hidden_size)
    entering = [linear for linear in linears if linear is not leaving]
    trained = _trained(entering, leaving, setup)
    if not flows and not any(linear.target for linear in entering):
        return trained
    if linears[0].kind.group == "attention":
        return trained.plus(_attention(module_map, entering, leaving, norms, setup))
    return trained.plus(_mlp(module_map, entering, leaving, setup))


def _leaving(linears: list[Linear], hidden: int) -> Linear | None:
    """The linear that maps back to the hidden states; None if there is only one linear."""
    if len(linears) == 1:
        return None
    back = [linear for linear in linears if linear.out == hidden]
    narrower = [linear for linear in back if linear.width != hidden]
    return (narrower or back or linears)[-1]


def _attention(
    module_map: ModuleMap,
    entering: list[Linear],
    leaving: Linear | None,
    norms: list[tuple[str, int]],
    setup: ActivationSetup,
) -> ActivationBytes:
    """Queries, keys, values and output as saved by fused attention; eager attention saves all scores."""
    forward = module_map.forward
    projected = sum(linear.out for linear in entering)
    inner = leaving.width if leaving else projected
    values = min(inner, max(0, projected - inner) // 2)
    head = inner // max(1, module_map.heads)
    turned = inner + values if forward.rotary else 0
    views = projected if len(entering) == 1 or not forward.rotary else values
    if setup.repeats_keys(module_map.heads) and values < inner:
        kept = 3 * inner if forward.rotary or len(entering) > 1 else projected + 2 * inner
    else:
        kept = turned + views
    tokens = float((kept + inner) * setup.width + FLOAT32 * module_map.heads)
    for name, size in norms:
        if size == head and size != module_map.hidden_size:
            tokens += FLOAT32 * (inner if name.startswith("q") else values)
    pairs = float(setup.width if setup.masked else 0)  # the mask, as SDPA adds it
    if not forward.sdpa and setup.attention == SDPA:
        copies = FLOAT32 + (setup.width if setup.width < FLOAT32 else 0) + (setup.width if forward.softcap else 0)
        pairs = float(module_map.heads * copies)
    return ActivationBytes(tokens, pairs)


def _mlp(
    module_map: ModuleMap, entering: list[Linear], leaving: Linear | None, setup: ActivationSetup
) -> ActivationBytes:
    """The activation function's input (or more), and, if gated, both factors of the product."""
    first = entering[0] if entering else leaving
    if first is None:
        return ActivationBytes()
    projected = sum(linear.out for linear in entering)
    inner = leaving.width if leaving else projected
    gated = projected >= 2 * inner
    forward = module_map.forward
    activation = forward.activation_bytes_float32 if setup.width == FLOAT32 else forward.activation_bytes
    tokens = inner * (activation + 2 * gated * setup.width)
    if first.kind.class_name == "Parameter":  # each expert's output, to be weighted by the router
        tokens += module_map.hidden_size * setup.width
    return ActivationBytes(tokens * first.share)


def _trained(entering: list[Linear], leaving: Linear | None, setup: ActivationSetup) -> ActivationBytes:
    """Inputs saved by trained modules and by LLM.int8()."""
    kept = ActivationBytes()
    shared: Linear | None = None
    for linear in [*entering, *([leaving] if leaving else [])]:
        target = linear.target
        own = target is not None and target.treatment == "lora" and setup.own_input(linear.quantized)
        needs = (target is not None and not own) or (linear.quantized and setup.quantization == "int8")
        tokens = fixed = 0.0
        if target is not None:
            tokens, fixed = _of_target(target, linear, setup)
        if own:
            tokens += linear.width * (setup.width + setup.dropout_mask)
        if needs and linear is leaving:
            # SDPA keeps its output as it is; on a CPU it is copied to be contiguous
            tokens += 0 if linear.kind.group == "attention" and setup.on_gpu else linear.width * setup.width
        elif needs:
            shared = linear
        kept = kept.plus(ActivationBytes(tokens * linear.share, 0.0, fixed))
    return kept.plus(ActivationBytes(shared.width * setup.width * shared.share)) if shared else kept


def _of_target(target: Target, linear: Linear, setup: ActivationSetup) -> tuple[float, float]:
    """Bytes per token and fixed ones: A's output, DoRA's two factors, copies of the weights in the compute type."""
    casts = setup.width if setup.width < FLOAT32 else 0
    if target.treatment != "lora":
        return 0.0, float(prod(target.shape) * casts)
    factors = target.r * prod(target.shape[:-2]) * (linear.out + linear.width) * casts
    if by_parameter(target):  # PEFT adds A and B up to a weight of the whole size; a quantized one is recomputed
        return 0.0, float(factors + prod(target.shape) * setup.width * (not linear.quantized))
    tokens = target.r * setup.width + (2 * linear.out * setup.width if setup.dora else 0)
    return float(tokens), float(factors)


def by_parameter(target: Target) -> bool:
    """Whether it is LoRA on a parameter (experts), which PEFT merges in every forward pass."""
    return target.treatment == "lora" and (target.kind.class_name == "Parameter" or target.kind.by_weight)
