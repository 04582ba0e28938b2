"""Writes docs/architectures.md: what the module map shows for every causal LM of transformers.

    python benchmarks/architectures.py > docs/architectures.md

Takes about two minutes on one core and needs no weights. The models in tests/support/published.py are built at
their real size, and one of every type at tiny size.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import peft
import torch
import transformers

from tests.support import published
from tests.support.tiny_configs import MODEL_TYPES, NOT_BUILT, tiny_config
from trainer.models.discovery.discover import discover
from trainer.models.module_map import GROUPS, ModuleKind, ModuleMap
from trainer.planning.coverage_warnings import routed_experts

HEADER = """# Architectures

What the module map shows for the {count} causal-LM types of transformers {transformers} (peft {peft}, torch {torch}),
of which {built} build at tiny size, and for published models at their real size. This page is written by
`python benchmarks/architectures.py`.

{published}

## Every type

Kinds are the names that can be ticked. **Slices** are parts of a fused projection that can be ticked by
themselves; the layout of their rows was measured on the model, not looked up: "blocked" means one range of rows
each, "interleaved" several ranges, such as one per head. Kinds marked * can only be trained in one way, those
marked † not at all; the map says why. The group `other` (norms, routers, state-space mixers, vision
and audio towers, bare parameters) is counted.

Encoders such as BERT, XLM and XLNet are listed with settings that make them causal (`is_decoder`, `causal`,
`attn_type`). By default, their tokens attend to later ones, which is measured on the model, and they are refused.

| type | attention | MLP | embedding and head | other | slices |
|---|---|---|---|---|---|"""


PUBLISHED = """## Published models

Built from the configurations in `tests/support/published.py`, which hold what each published config.json changes in
its type's defaults. Parameters are exact; numbers in bold agree with the widely published ones, which a test checks.
Shares are percentages of the parameters. Kinds are those that take LoRA: attention, then MLP. Notes list routed
experts (MLP), recurrent mixers (`other`, or attention if the model calls them that), and towers that text never runs
through (`other`, never trained).

| model | type | parameters | attention | MLP | embedding, head | other | kinds | fused slices | notes |
|---|---|---:|---:|---:|---:|---:|---|---|---|"""


def main() -> None:
    maps = {name: discover(tiny_config(name), name) for name in MODEL_TYPES if name not in NOT_BUILT}
    versions = {"transformers": transformers.__version__, "peft": peft.__version__}
    real = "\n".join([PUBLISHED, *map(published_row, published.ALL)])
    versions["torch"] = torch.__version__.partition("+")[0]
    print(HEADER.format(count=len(MODEL_TYPES), built=len(maps), published=real, **versions))
    for name in sorted(maps):
        print(row(maps[name]))
    print("\n## Not built\n")
    for name, reason in sorted(NOT_BUILT.items()):
        print(f"- `{name}`: {reason}.")
    print("\n## Why a treatment is missing\n\n| reason | kinds | for instance |\n|---|---|---|")
    for reason, kinds in sorted(reasons(maps).items(), key=lambda item: (-len(item[1]), item[0])):
        print(f"| {reason} | {len(kinds)} | {', '.join(kinds[:3])} |")


def published_row(name: str) -> str:
    model, module_map = published.ALL[name], discover(published.make_config(name), name)
    whole = [kind for kind in module_map.kinds if kind.slice_of is None]
    size = f"{module_map.parameters:,}"
    shares = [share([kind for kind in whole if kind.group == group], module_map) for group in GROUPS]
    kinds = [
        ", ".join(kind.name for kind in whole if kind.group == group and "lora" in kind.treatments)
        for group in ("attention", "mlp")
    ]
    cells = [name, model.type, f"**{size}**" if model.source == published.KNOWN else size, *shares]
    return (
        f"| {' | '.join([*cells, ' · '.join(filter(None, kinds)), sliced(module_map), notes(whole, module_map)])} |"
    )


def notes(whole: list[ModuleKind], module_map: ModuleMap) -> str:
    parts = {
        "routed experts": routed_experts(module_map),
        "recurrent mixers": [kind for kind in whole if kind.recurrent],
        "towers": [kind for kind in whole if kind.tower],
    }
    found = [f"{title} {share(kinds, module_map)}" for title, kinds in parts.items() if kinds]
    return "; ".join([*found, *(["tied head"] if any(kind.tied_to for kind in whole) else [])])


def share(kinds: list[ModuleKind], module_map: ModuleMap) -> str:
    return f"{100 * sum(kind.parameters for kind in kinds) / module_map.parameters:.1f}"


def row(module_map: ModuleMap) -> str:
    groups = [
        ", ".join(shown(kind) for kind in module_map.group(group) if kind.slice_of is None)
        for group in ("attention", "mlp", "embedding")
    ]
    cells = [module_map.model_type, *groups, str(len(module_map.group("other"))), sliced(module_map)]
    return f"| {' | '.join(cells)} |"


def sliced(module_map: ModuleMap) -> str:
    return "; ".join(
        f"{kind.name} → {', '.join(part.name for part in parts)} ({layout(parts)})"
        for kind in module_map.kinds
        if (parts := module_map.slices(kind.name))
    )


def shown(kind: ModuleKind) -> str:
    return kind.name + ("", "*", "†")[2 - len(kind.treatments)]


def layout(parts: list[ModuleKind]) -> str:
    runs = max(len(part.rows or ()) for part in parts)
    return "blocked" if runs == 1 else "interleaved"


def reasons(maps: dict[str, ModuleMap]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, module_map in sorted(maps.items()):
        for kind in module_map.kinds:
            if kind.reason and kind.slice_of is None:
                found.setdefault(kind.reason, []).append(f"{name}: {kind.name}")
    return found


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    main()
