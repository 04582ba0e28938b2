"""The module map: every parameter of a model, sorted into kinds that can be ticked.

Data types only, without heavy imports, since the page uses maps as well.
`discover.py` makes a map from a model's config.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from trainer.models.block_graph import Block
from trainer.models.checkpoint_format import CheckpointFormat

GROUPS = ("attention", "mlp", "embedding", "other")
GROUP_TITLES = {
    "attention": "Attention",
    "mlp": "MLP",
    "embedding": "Embedding & head",
    "other": "Other",
}
READ = "Its weight is read without calling the module, so LoRA could be skipped in silence."
"""Reason for kinds whose modules must keep a plain weight: no LoRA, no quantization."""


@dataclass(frozen=True)
class ModuleKind:
    """All modules of a model that play one role, such as `q_proj` in every layer: the unit of a tick.

    A slice (`slice_of` set) is a named part of a fused projection: its `modules` are the fused
    modules, its `rows` the output rows it owns in each of them, its `shapes` those of its own part.
    """

    name: str
    """Unique in the map: the shortest end of the path that is unambiguous."""
    group: str
    """One of GROUPS."""
    modules: tuple[str, ...]
    """Full names, in layer order. For a bare parameter (experts, A_log): full names of the parameters."""
    class_name: str
    """Class of the module (`Linear`, `Conv1D`, `Embedding`, `Phi3RMSNorm`), or `Parameter`."""
    shapes: tuple[tuple[int, ...], ...]
    """One per module: (out, in) for linears (Conv1D transposed), (rows, width) for embeddings, (experts, out, in) for
    expert parameters, else the weight's own shape."""
    parameters: int
    """Total over all modules of the kind, biases included; 0 for a tied kind."""
    treatments: tuple[str, ...] = ()
    """Allowed treatments: `lora`, `full`, both or none."""
    reason: str = ""
    """Why a treatment is missing, as a sentence; empty if none is."""
    layers: tuple[int, ...] = ()
    """Layer number of each module; empty for modules outside the layers."""
    bias: bool = False
    """Whether its modules have a bias, which LoRA does not train."""
    slice_of: str | None = None
    """Name of the fused kind that this kind is a slice of."""
    rows: tuple[tuple[int, int], ...] | None = None
    """For a slice: its output rows in each fused module, as [start, end) ranges (several if interleaved)."""
    tied_to: str | None = None
    """Name of the kind whose weight this kind shares."""
    by_weight: bool = False
    """LoRA targets the weight (PEFT's `target_parameters`), not the module."""
    tower: bool = False
    """In a part that text-only input never reaches: a vision or audio tower, its connector, cross-attention."""
    recurrent: bool = False
    """All its modules are in recurrent token mixers: state-space, linear attention, short convolution."""
    experts: bool = False
    """Bare parameters that hold all experts of a layer, which are not linears to transformers and PEFT."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.shapes[0] if self.shapes else ()

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "group": self.group,
            "modules": list(self.modules),
            "class": self.class_name,
            "shape": list(self.shape),
            "shapes": [list(shape) for shape in self.shapes],
            "parameters": self.parameters,
            "treatments": list(self.treatments),
            "reason": self.reason,
            "layers": list(self.layers),
            "bias": self.bias,
            "slice_of": self.slice_of,
            "rows": None if self.rows is None else [list(row) for row in self.rows],
            "tied_to": self.tied_to,
            "by_weight": self.by_weight,
            "tower": self.tower,
            "recurrent": self.recurrent,
            "experts": self.experts,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ModuleKind:
        rows = value["rows"]
        return cls(
            name=value["name"],
            group=value["group"],
            modules=tuple(value["modules"]),
            class_name=value["class"],
            shapes=tuple(tuple(shape) for shape in value["shapes"]),
            parameters=value["parameters"],
            treatments=tuple(value["treatments"]),
            reason=value["reason"],
            layers=tuple(value["layers"]),
            bias=value["bias"],
            slice_of=value["slice_of"],
            rows=None if rows is None else tuple((start, end) for start, end in rows),
            tied_to=value["tied_to"],
            by_weight=value["by_weight"],
            tower=value["tower"],
            recurrent=value["recurrent"],
            experts=value["experts"],
        )


@dataclass(frozen=True)
class Forward:
    """Facts about the activations saved for the backward pass that names and shapes do not show."""

    rotary: bool = True
    """Rotary embeddings (RoPE) are applied, which makes new tensors of queries and keys."""
    sdpa: bool = True
    """Attention uses torch's SDPA, which saves no scores; eager attention saves all of them."""
    softcap: bool = False
    """Attention logits are soft-capped with a tanh, which saves them once more."""
    sinks: bool = False
    """Each head has a learned attention sink."""
    flash: bool = False
    """transformers can run its attention, which has no dropout, with flash attention kernels, without a mask."""
    flex: bool = False
    """The same with FlexAttention."""
    head_size: int = 0
    """Elements of a query's head, if `flash`."""
    activation_bytes: int = 2
    """Bytes that the MLP's activation function saves per element, in bfloat16 on a GPU."""
    activation_bytes_float32: int = 4
    """The same in float32."""
    plain_norms: int = 0
    """Norms per layer without weights, which belong to no kind."""
    norm_bytes: int = 4
    """Bytes that a norm over the hidden states saves per element, in bfloat16 on a GPU."""
    norm_bytes_float32: int = 4
    """The same in float32."""
    experts_per_token: int = 1


@dataclass(frozen=True)
class ModuleMap:
    """The kinds of one model. The parameters of the kinds that are not slices add up to the model's total."""

    model: str
    """Its name in the configuration: `demo`, a hub id, or a folder's name."""
    model_type: str
    parameters: int
    kinds: tuple[ModuleKind, ...]
    layers: int = 0
    hidden_size: int = 0
    intermediate_size: int = 0
    vocab_size: int = 0
    heads: int = 0
    max_positions: int = 0
    """Longest sequence that the model supports; 0 if its config does not say."""
    auto_class: str = "AutoModelForCausalLM"
    """The transformers class that loads the model as published; adapters use its module names."""
    dtype: str = ""
    """dtype of the stored weights according to the config, such as `bfloat16`; empty if it does not say."""
    forward: Forward = Forward()
    checkpoint: CheckpointFormat | None = None
    """Quantization format of the published weights; None if they are not quantized."""
    own_names: bool = False
    """The checkpoint's tensor names equal this map's module names; for other models, transformers renames some."""
    blocks: tuple[Block, ...] = ()
    """Blocks before, in and after the layers, in order; together they hold every kind that text reaches."""
    index: dict[str, ModuleKind] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        self.index.update({kind.name: kind for kind in self.kinds})

    def get(self, name: str) -> ModuleKind | None:
        return self.index.get(name)

    def group(self, group: str) -> list[ModuleKind]:
        return [kind for kind in self.kinds if kind.group == group]

    def slices(self, name: str) -> list[ModuleKind]:
        """The slices of the fused kind `name`, in the order of their rows."""
        return [kind for kind in self.kinds if kind.slice_of == name]

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "model_type": self.model_type,
            "parameters": self.parameters,
            "layers": self.layers,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "vocab_size": self.vocab_size,
            "heads": self.heads,
            "max_positions": self.max_positions,
            "auto_class": self.auto_class,
            "dtype": self.dtype,
            "own_names": self.own_names,
            "checkpoint": self.checkpoint.to_json() if self.checkpoint else None,
            "forward": asdict(self.forward),
            "kinds": [kind.to_json() for kind in self.kinds],
            "blocks": [block.to_json() for block in self.blocks],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ModuleMap:
        parts = ("kinds", "forward", "blocks", "checkpoint")
        rest = {key: item for key, item in value.items() if key not in parts}
        kinds = tuple(ModuleKind.from_json(kind) for kind in value["kinds"])
        blocks = tuple(Block.from_json(block) for block in value["blocks"])
        checkpoint = CheckpointFormat.from_json(value["checkpoint"]) if value["checkpoint"] else None
        return cls(**rest, kinds=kinds, forward=Forward(**value["forward"]), blocks=blocks, checkpoint=checkpoint)
