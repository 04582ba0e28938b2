"""Assigns modules to groups by their position and class, not by the model's name.

The words below are field terms in module and class names (`self_attn`, `FeedForward`): the nearest ancestor with such
a word decides, and shapes decide if there is none.
Experts are MLP unless such a word says otherwise (JetMoe's attention has experts, too); routers are
`other`, and so is all that text never runs through: vision and audio towers, connectors, cross-attention.
"""

from __future__ import annotations

import re

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trainer.models.discovery.skeleton import linear_shape

ATTENTION = {"attn", "attention", "attentions", "att", "atten"}
MLP = {"mlp", "ffn", "ffns", "ff", "feed", "feedforward", "moe", "intermediate"}
OTHER = {
    *("router", "indexer", "hyper", "conv", "sconv", "convolution"),
    *("mamba", "mamba2", "ssm", "lstm", "recurrent", "rglru"),
}
NORMS = {"layernorm", "rmsnorm"}
EXPERTS = {"expert", "experts", "moe"}
RECURRENT = {
    *("mamba", "mamba2", "ssm", "lstm", "mlstm", "recurrent", "rglru", "conv"),
    *("delta", "deltanet", "lightning"),
}
"""Token mixers that hold a state of fixed size instead of keys and values: state-space models, linear
attention, gated delta rules, short convolutions."""


class Grouping:
    """Groups for the modules of one model."""

    def __init__(self, model: PreTrainedModel, config: PretrainedConfig) -> None:
        self.modules = dict(model.named_modules())
        self.chains: dict[str, list[set[str]]] = {}
        text = config.get_text_config(decoder=True)
        self.hidden = int(getattr(text, "hidden_size", 0) or 0)
        self.inner = _numbers(text, "intermediate|ffn|d_inner|dim_ff|dff")
        self.expert_counts = _numbers(text, "(num|n|routed|local|zero|_)_?experts?$|zero_expert_num")
        self.embedding = _names_of(model, model.get_input_embeddings())
        self.head = _names_of(model, _head(model, self.embedding))
        brands = {_brand(module) for module in self.modules.values() if isinstance(module, PreTrainedModel)}
        self.brands = sorted(brands, key=len, reverse=True)
        """Prefixes of the class names of the model and its inner models, which are brand names, not field terms."""
        self.towers: list[str] = []
        """Modules that text never runs through, as found by probing; empty before."""

    def depth_in_tower(self, name: str) -> int:
        """Parts of the path from the tower on that it lies in, layer numbers left out; 0 outside towers."""
        for tower in self.towers:
            if f"{name}.".startswith(f"{tower}."):
                parts = name.split(".")[tower.count(".") :]
                return sum(not part.isdigit() for part in parts)
        return 0

    def of(self, name: str) -> str:
        """Group of a module that holds parameters of its own."""
        module = self.modules[name]
        if name in self.embedding | self.head:
            return "embedding"
        if self.depth_in_tower(name):
            return "other"
        inside = any(part.isdigit() for part in name.split("."))
        if isinstance(module, nn.Embedding):
            return "other" if inside else "embedding"
        if isinstance(module, nn.Linear | Conv1D) and inside:
            return self._of_linear(name, module)
        if any(named & {"expert", "experts"} for named in self._chain(name)):
            return self._by_words(self._chain(name)) or "other"
        return "other"

    def of_parameter(self, name: str, holder: str) -> str:
        """Group of a bare parameter `name` of the module `holder`."""
        if holder in self.embedding | self.head:
            return "embedding"
        parameter = self.modules[holder].get_parameter(name.rpartition(".")[2])
        experts = any(named & EXPERTS for named in self._chain(holder))
        matrix = parameter.dim() > 1 if experts else parameter.dim() > 2 and parameter.shape[0] > 1
        router = any("router" in named for named in self._chain(holder))
        if not matrix or router or self.depth_in_tower(holder):
            return "other"
        return self._by_words(self._chain(holder)) or "other"

    def is_recurrent(self, name: str) -> bool:
        """Whether a module or parameter works in a recurrent token mixer of a layer; see RECURRENT."""
        return not self.depth_in_tower(name) and any(
            named & RECURRENT for named in self._chain(name.rpartition(".")[0])
        )

    def is_experts(self, name: str, holder: str) -> bool:
        """Whether a bare parameter holds the weights of a layer's experts, (experts, ..., ...)."""
        parameter = self.modules[holder].get_parameter(name.rpartition(".")[2])
        return parameter.dim() == 3 and any(named & EXPERTS for named in self._chain(holder))

    def _of_linear(self, name: str, module: nn.Linear | Conv1D) -> str:
        rows, columns = linear_shape(module)
        own = words(name.rpartition(".")[2])
        if rows == 1 or own & (OTHER | NORMS):
            return "other"
        router = own == {"gate"} or words(name.split(".")[-2]) <= {"gate", "router"}  # Hunyuan's is mlp.gate.wg
        if router and rows in self.expert_counts:
            return "other"
        group = self._by_words(self._chain(name.rpartition(".")[0]))
        if group:
            return group
        wide = max(rows, columns)
        return "mlp" if rows != columns and (wide > self.hidden or min(rows, columns) in self.inner) else "other"

    def _chain(self, name: str) -> list[set[str]]:
        """Words of the module and its ancestors up to its layer's list, nearest first."""
        if name in self.chains:
            return self.chains[name]
        chain = self.chains[name] = []
        parts = name.split(".")
        first = next(index for index, part in enumerate([*parts, "0"]) if part.isdigit())
        for end in range(len(parts), first, -1):
            module = self.modules[".".join(parts[:end])]
            layer = end - 1 == first
            named = set() if layer else words(parts[end - 1])
            class_name = type(module).__name__
            brand = next((brand for brand in self.brands if class_name.startswith(brand)), "")
            class_name = class_name.removeprefix(brand)
            if not (layer and re.search("Layer$|Block$", class_name)):
                named |= words(class_name)
            chain.append(named)
        if first:
            chain.append(words(parts[first - 1]))
        return chain

    def _by_words(self, chain: list[set[str]]) -> str:
        """The group named by the nearest word; experts and `mixer` only count if nothing else does."""
        if any(named & NORMS for named in chain):
            return "other"
        for named in chain:
            for group, telling in (("other", OTHER), ("attention", ATTENTION), ("mlp", MLP)):
                if named & telling:
                    return group
        if any(named & EXPERTS for named in chain):
            return "mlp"
        return "other" if any("mixer" in named for named in chain) else ""


def _head(model: PreTrainedModel, embedding: set[str]) -> nn.Module | None:
    """The output head; some multimodal wrappers do not expose the one of their language model."""
    for name, module in model.named_modules():
        around = not name or any(path.startswith(f"{name}.") for path in embedding)
        if isinstance(module, PreTrainedModel) and around:
            head: nn.Module | None = module.get_output_embeddings()
            if head is not None:
                return head
    return None


def _brand(model: PreTrainedModel) -> str:
    return re.sub(r"(For|LMHead|WithLM|Model|Decoder).*", "", type(model).__name__)


def words(name: str) -> set[str]:
    """Words of a snake_case or CamelCase name: `MoEMLPBlock` -> moe, mlp, block."""
    parts = re.findall(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+", name.replace("MoE", "Moe"))
    return {part.lower() for part in parts} | {part.lower().rstrip("0123456789") for part in parts}


def _numbers(config: PretrainedConfig, pattern: str) -> set[int]:
    """Values of the whole-number settings of which the name shows `pattern`."""
    settings = vars(config).items()
    return {value for key, value in settings if type(value) is int and re.search(pattern, key)}


def _names_of(model: PreTrainedModel, wanted: nn.Module | None) -> set[str]:
    return {name for name, module in model.named_modules() if module is wanted}
