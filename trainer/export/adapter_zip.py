"""Exports an adapter as a zip that works anywhere: plain PEFT files, a model card, the run's configuration.

It contains no pickle, link, local path or token. Does not need torch.
"""

from __future__ import annotations

import json
import os
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

from trainer.common import atomic, bounded_files, redaction
from trainer.common.bounded_files import DamagedFile
from trainer.common.errors import UserError
from trainer.common.progress import ProgressMonitor
from trainer.common.stored_names import own_names
from trainer.common.templates import Templates
from trainer.data.masking.chat_templates import CHATML
from trainer.runs.run import Run

WEIGHTS = "adapter_model.safetensors"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
VOCABULARY = ("model", "added_tokens")
"""Keys of tokenizer.json that must stay as they are."""
TEMPLATE = "chat_template.jinja"
REPAIR = "Resume the run, which saves a new one."
CHUNK_BYTES = 4 * 2**20
MAX_TOKENIZER, MAX_OTHER = 100_000_000, 4_000_000
"""Bytes; the tokenizers of published models take up to 35 MB."""
PRIVATE = ("name_or_path", "_name_or_path", "auto_map", "token", "use_auth_token", "cache_dir")
"""Keys with values of this machine, or that name code."""


def adapter_zip(run: Run, exports_dir: Path, monitor: ProgressMonitor | None = None) -> Path:
    """Write `<title>-<id>.zip` into `exports_dir`, atomically.

    Raises UserError if no adapter is saved yet, and Canceled if `monitor` cancels it.
    """
    check_adapter(run)
    weights = run.adapter / WEIGHTS
    name = re.sub(r"[^A-Za-z0-9]+", "-", run.title).strip("-")[:40]
    path = exports_dir / (f"{name}-{run.id}.zip" if name and name != run.id else f"adapter-{run.id}.zip")
    try:
        with (
            atomic.new_file(path, durable=False) as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
        ):
            _copy_weights(weights, archive, monitor or ProgressMonitor())
            for name, text in texts(run).items():
                archive.writestr(name, text)
    except OSError as error:
        raise UserError(f"The zip cannot be written: {error.strerror}.", "Free some space.", "disk") from error
    return path


def check_adapter(run: Run) -> None:
    """Raises UserError if no adapter is saved yet, or its weights are not safetensors."""
    weights = run.adapter / WEIGHTS
    if run.config is None or not _is_plain(weights):
        raise UserError(f"{run.title} has no adapter yet.", "Let it finish, or stop it: both save one.", "data")
    _check_weights(weights, run.title)


def _copy_weights(weights: Path, archive: zipfile.ZipFile, monitor: ProgressMonitor) -> None:
    """Add the weights in chunks: with modules trained in full, they take gigabytes."""
    entry = zipfile.ZipInfo.from_file(weights, WEIGHTS)
    with weights.open("rb") as source, archive.open(entry, "w") as target:
        while chunk := source.read(CHUNK_BYTES):
            monitor.check()
            target.write(chunk)
            monitor.progress("copying the weights", source.tell() / max(1, entry.file_size))


def texts(run: Run) -> dict[str, str]:
    """All files of the zip except the weights. Raises UserError if one of them is damaged."""
    assert run.config is not None
    files = {
        "adapter_config.json": _dump(adapter_config(run)),
        "run_config.json": _dump(clean(run.config.to_json())),
        "README.md": redaction.redact(model_card(run)),
    }
    if not run.config.model.new_tokens and not _brings_template(run):
        return files  # the base model's own tokenizer is the right one
    for name in TOKENIZER:
        if _is_plain(run.adapter / name):
            files[name] = _dump(_tokenizer_file(run.adapter / name))
    if _is_plain(run.adapter / TEMPLATE):
        files[TEMPLATE] = redaction.redact(_template(run))
    return files


def adapter_config(run: Run) -> dict[str, Any]:
    """PEFT's adapter_config.json with the base model's name instead of a local path."""
    value = clean(_read(run.adapter / "adapter_config.json"))
    if not isinstance(value, dict):
        raise UserError("The adapter's adapter_config.json is damaged.", REPAIR, "data")
    value["base_model_name_or_path"] = base_model(run)
    value["revision"] = revision(run) or None
    return value


def _tokenizer_file(file: Path) -> Any:
    """A tokenizer file, cleaned except for its vocabulary, in which `token` and `/usr` are ordinary words."""
    value = _read(file)
    if file.name == "added_tokens.json" or not isinstance(value, dict):
        return value
    words = {key: value[key] for key in VOCABULARY if key in value and file.name == "tokenizer.json"}
    return clean(value) | words


def _is_plain(file: Path) -> bool:
    """Whether it is a regular file: a link's target is not part of the adapter."""
    return os.path.isfile(file) and not os.path.islink(file)  # noqa: PTH113, PTH114  never raise


def _check_weights(file: Path, title: str) -> None:
    """Raises UserError if the file is not safetensors, whatever its name."""
    with file.open("rb") as weights:
        head = weights.read(9)
    size = struct.unpack("<Q", head[:8])[0] if len(head) == 9 else 0
    if not 2 <= size <= file.stat().st_size - 8 or head[8:] != b"{":
        raise UserError(f"The adapter of {title} is damaged.", REPAIR, "data")


def _read(file: Path) -> Any:
    try:
        return bounded_files.read_json(file, MAX_TOKENIZER if file.name == "tokenizer.json" else MAX_OTHER)
    except DamagedFile as error:
        raise UserError(f"The adapter's {error.problem}", REPAIR, "data") from error


def clean(value: Any) -> Any:
    """JSON without tokens, local paths and names of code."""
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items() if key not in PRIVATE}
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, str):
        return None if _is_path(value) else redaction.redact(value)
    return value


def _is_path(text: str) -> bool:
    """Whether the text is a path on this machine; vocabulary tokens such as `/` or `//` are not."""
    return text.startswith(("/", "~/")) and len(text) > 3 and Path(text).expanduser().exists()


def base_model(run: Run) -> str:
    """The base model's public name."""
    assert run.config is not None
    name = run.config.model.name.strip()
    return "lora-module-lab-demo" if name == "demo" else re.sub(r"[^A-Za-z0-9._/-]+|^/+|\.\.+", "", name)[:200]


def revision(run: Run) -> str:
    """The base model's commit if the run is pinned to one, else its branch or tag; empty for main."""
    assert run.config is not None
    if run.history.commit:
        return run.history.commit
    name = re.sub(r"[^A-Za-z0-9._/-]+", "", run.config.model.revision)[:200]
    return name if "/" in base_model(run) and name != "main" else ""


def model_card(run: Run) -> str:
    """The adapter's README.md: what it is, what was trained, how to load it, its losses."""
    assert run.config is not None
    history, plan, config = run.history.refresh(), run.plan(), run.config
    checkpoint = plan.get("checkpoint") or {}
    wrapper = plan.get("auto_class") == "AutoModelForImageTextToText"
    return TEMPLATES.render(
        "model_card.md",
        title=run.title,
        base=base_model(run),
        is_hub="/" in base_model(run),
        revision=revision(run),
        auto_class="AutoModelForImageTextToText" if wrapper else "AutoModelForCausalLM",
        receipts=plan.get("receipts", []),
        trainable=plan.get("trainable", 0),
        latest=history.latest,
        step=history.step,
        steps=history.steps,
        note=run.adapter_note,
        data=own_names(config.data.path) or config.data.source,
        tokens=config.model.new_tokens,
        template=config.data.template,
        brings_template=_brings_template(run),
        quantization=config.model.quantization,
        # the base model's format during training; empty for plain weights
        format=checkpoint.get("format", ""),
        held=checkpoint.get("held", False),
        loads=_plain(checkpoint.get("loads", "")),
    )


def _brings_template(run: Run) -> bool:
    """Whether the adapter has a chat template that the base model lacks: ChatML."""
    file = run.adapter / TEMPLATE
    return _is_plain(file) and CHATML in _template(run)


def _template(run: Run) -> str:
    try:
        return bounded_files.read(run.adapter / TEMPLATE, MAX_OTHER).decode()
    except (DamagedFile, UnicodeDecodeError) as error:
        raise UserError("The adapter's chat template is damaged.", REPAIR, "data") from error


def _plain(text: str) -> str:
    """Text that is safe in a Markdown table and in inline code."""
    return re.sub(r"[|<>`\[\]\\\x00-\x1f\x7f\u2028\u2029]+", " ", str(text))[:300]


def _prose(text: str) -> str:
    """Text escaped for Markdown prose."""
    return re.sub(r"([*_#!~&])", r"\\\1", _plain(text))


TEMPLATES = Templates(Path(__file__).with_name("templates"), keep_trailing_newline=True)
TEMPLATES.environment.filters |= {"plain": _plain, "prose": _prose}


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True)
