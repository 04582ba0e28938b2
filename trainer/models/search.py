"""Finds models to choose from: recently used, local, in the hub cache, and on the hub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from trainer import demo
from trainer.models import weight_files
from trainer.models.hub import Hub
from trainer.models.locations import HUB_ID, MAX_CONFIG_BYTES, local_models

MAX_RECENT, MAX_CACHED, MAX_FOUND = 5, 200, 20
MAX_QUERY = 96
PIPELINES = ("text-generation", "image-text-to-text", "any-to-any")
"""Kinds of models on the hub that hold a language model to fine-tune."""
LANGUAGE_MODEL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""How the architectures of such models end in a config.json."""


@dataclass(frozen=True)
class Choice:
    """One model to choose."""

    name: str
    bytes: int | None = None
    """Bytes of its weights on this machine; None if there are none."""
    parameters: int | None = None
    """Parameter count from the hub; None if unknown."""
    license: str = ""
    gated: bool = False
    downloads: int = 0
    """In the last month."""


def recent(runs: Iterable[Mapping[str, Any]]) -> list[str]:
    """The models of these runs (newest first), without repeats."""
    names = dict.fromkeys(str(run["model"]) for run in runs if run["model"])
    return list(names)[:MAX_RECENT]


def here(models_dir: Path) -> list[Choice]:
    """The demo and the folders of the models folder."""
    folders = [(name, models_dir / name) for name in local_models(models_dir)]
    return [Choice(name, _weights(folder)) for name, folder in [("demo", demo.MODEL_DIR), *folders]]


def in_cache() -> list[Choice]:
    """Hub models whose main revision is fully cached."""
    from huggingface_hub import constants

    found = []
    for place in sorted(Path(constants.HF_HUB_CACHE).glob("models--*--*"))[: MAX_CACHED * 5]:
        name = place.name.removeprefix("models--").replace("--", "/", 1)
        try:
            folder = place / "snapshots" / (place / "refs" / "main").read_text(encoding="ascii").strip()
            is_model = HUB_ID.fullmatch(name) and _is_language_model(folder)
        except (OSError, ValueError):
            continue
        size = _weights(folder) if is_model else None
        if size is not None:
            found.append(Choice(name, size))
    return found[:MAX_CACHED]


def on_hub(hub: Hub, text: str) -> list[Choice]:
    """Hub models with `text` in their names, the most downloaded first.

    Raises Unreachable if the hub does not answer, UserError if it refuses.
    """
    from huggingface_hub import HfApi

    words = " ".join(text.split())[:MAX_QUERY]

    def ask() -> list[Any]:
        expand = ["downloads", "gated", "safetensors", "tags", "pipeline_tag"]
        kind = ["transformers", "safetensors"]
        found = HfApi().list_models(search=words, filter=kind, sort="downloads", limit=3 * MAX_FOUND, expand=expand)  # type: ignore[arg-type]
        return list(found)

    choices = [_choice(item) for item in hub.ask(ask) if item.pipeline_tag in PIPELINES]
    return [choice for choice in choices if HUB_ID.fullmatch(choice.name)][:MAX_FOUND]


def _choice(item: Any) -> Choice:
    """A row of the hub's answer. Names and tags are untrusted text."""
    licenses = [tag.removeprefix("license:") for tag in item.tags or [] if tag.startswith("license:")]
    counted = getattr(item.safetensors, "total", None)
    return Choice(
        name=str(item.id),
        parameters=counted if isinstance(counted, int) else None,
        license=re.sub(r"[^\w.+-]", "", licenses[0])[:40] if licenses else "",
        gated=bool(item.gated),
        downloads=item.downloads if isinstance(item.downloads, int) else 0,
    )


def _weights(folder: Path) -> int | None:
    """Bytes of a folder's weights; None if they are incomplete."""
    try:
        files = weight_files.file_sizes(folder)
    except OSError:
        return None
    wanted = weight_files.files_to_load(files, weight_files.index_in(folder))
    return sum(files[name] for name in wanted) if wanted and all(name in files for name in wanted) else None


def _is_language_model(folder: Path) -> bool:
    """Whether a config.json describes a language model, or names no architecture. Raises OSError."""
    path = folder / "config.json"
    if path.stat().st_size > MAX_CONFIG_BYTES:
        return False
    value = orjson.loads(path.read_bytes())
    names = value.get("architectures") if isinstance(value, dict) else []
    return not names or any(str(name).endswith(LANGUAGE_MODEL) for name in names)
