"""Find models and read their modules. Module maps are cached until a model's files change."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import asdict

from trainer.common.progress import ProgressMonitor
from trainer.config.schema import ModelConfig
from trainer.models import search as model_search
from trainer.models.block_graph import INPUT, JOINS, Block, Part
from trainer.models.checkpoint_format import CheckpointFormat
from trainer.models.hub import Unreachable
from trainer.models.locations import files_stamp
from trainer.models.module_map import GROUP_TITLES, GROUPS, ModuleKind, ModuleMap
from trainer.models.search import MAX_QUERY, Choice, in_cache
from trainer.service.lab import Lab

__all__ = [
    "GROUPS",
    "GROUP_TITLES",
    "INPUT",
    "JOINS",
    "MAX_QUERY",
    "Block",
    "CheckpointFormat",
    "Choice",
    "ModuleKind",
    "ModuleMap",
    "Part",
    "Unreachable",
    "here",
    "in_cache",
    "known",
    "module_map",
    "recent",
    "search",
    "vocabulary",
]


def module_map(lab: Lab, model: ModelConfig, monitor: ProgressMonitor | None = None) -> ModuleMap:
    """The modules of a model. Raises UserError if it cannot be read, Canceled if `monitor` cancels it."""
    key = _key(lab, model)
    if key not in lab.module_maps:
        found = lab.model_analysis.call("modules", monitor, model=asdict(model))
        lab.module_maps[key] = ModuleMap.from_json(found)
    return lab.module_maps[key]


def known(lab: Lab, model: ModelConfig) -> ModuleMap | None:
    """The modules of a model if they are cached; reads nothing."""
    return lab.module_maps.get(_key(lab, model))


def vocabulary(lab: Lab, model: ModelConfig) -> frozenset[str]:
    """The tokens of a model's tokenizer. Raises UserError if it cannot be read."""
    key = _key(lab, model)
    if key not in lab.vocabularies:
        lab.vocabularies[key] = frozenset(lab.model_analysis.call("vocabulary", model=asdict(model)))
    return lab.vocabularies[key]


def recent(lab: Lab) -> list[str]:
    """Names of the most recently trained models."""
    return model_search.recent(lab.store.summaries())


def here(lab: Lab) -> list[Choice]:
    """The demo, then the folders in the models folder."""
    return model_search.here(lab.settings.models_dir)


def search(lab: Lab, text: str) -> list[Choice]:
    """Search the hub for models. Raises Unreachable if the hub does not respond, UserError if it refuses."""
    return model_search.on_hub(lab.base_models.hub, text)


def _key(lab: Lab, model: ModelConfig) -> Hashable:
    """Name, revision and state of the files: a changed folder is read again."""
    return model.name.strip(), model.revision, files_stamp(model, lab.settings.models_dir)
