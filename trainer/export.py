"""Adapter -> one zip that works anywhere: plain PEFT files, a model card, the run's configuration. No pickle,
no local path, no token. Needs no torch."""

from __future__ import annotations

import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.runs import Run

WEIGHTS = "adapter_model.safetensors"


def adapter_zip(run: Run, exports_dir: Path) -> Path:
    """Write `<title>-<id>.zip` into `exports_dir`; it appears whole. Raises UserError where nothing is saved yet."""
    weights = run.adapter / WEIGHTS
    if run.config is None or not weights.is_file():
        raise UserError(f"{run.title} has no adapter yet.", "Let it train, or stop it: both save one.", "data")
    name = re.sub(r"[^A-Za-z0-9]+", "-", run.title).strip("-")[:40]
    path = exports_dir / (f"{name}-{run.id}.zip" if name and name != run.id else f"adapter-{run.id}.zip")
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
        archive.write(weights, WEIGHTS)
        archive.writestr("adapter_config.json", _dump(adapter_config(run)))
        archive.writestr("run_config.json", _dump(run.config.to_json()))
        archive.writestr("README.md", model_card(run))
        for file in sorted(run.adapter.glob("tokenizer*.json")) + sorted(run.adapter.glob("chat_template.jinja")):
            archive.write(file, file.name)
    draft.replace(path)
    return path


def adapter_config(run: Run) -> dict[str, Any]:
    """PEFT's adapter_config.json with the base model by name, never by a path of this machine."""
    value: dict[str, Any] = json.loads((run.adapter / "adapter_config.json").read_text(encoding="utf-8"))
    value["base_model_name_or_path"] = base_model(run)
    return value


def base_model(run: Run) -> str:
    """Name of the base model as others know it."""
    assert run.config is not None
    return "lora-module-lab-demo" if run.config.model.name == "demo" else run.config.model.name


def model_card(run: Run) -> str:
    """README.md of the adapter: what it is, what was trained, how to load it, how it did."""
    assert run.config is not None
    history, plan = run.history.refresh(), run.plan()
    is_hub = "/" in base_model(run)
    receipts = "\n".join(
        f"| `{_plain(receipt['tick'])}` | {receipt['treatment']} | {_plain(receipt['note'])} |"
        for receipt in plan.get("receipts", [])
    )
    facts = {
        "Training loss": _number(history.latest.get("loss")),
        "Held-out loss": _number(history.latest.get("eval_loss")),
        "Steps": f"{history.step} of {history.steps}",
        "Trainable parameters": f"{plan.get('trainable', 0):,}",
        "Data": _plain(run.config.data.path or run.config.data.source),
    }
    where = base_model(run) if is_hub else f"the folder of {base_model(run)}"
    return (
        "---\n"
        + (f"base_model: {base_model(run)}\n" if is_hub else "")
        + "library_name: peft\npipeline_tag: text-generation\ntags: [lora]\n---\n\n"
        + f"# {_plain(run.title)}\n\nA PEFT adapter for `{base_model(run)}`, trained with LoRA Module Lab.\n\n"
        + "| tick | treatment | what it matched |\n|---|---|---|\n"
        + receipts
        + "\n\n"
        + "\n".join(f"- {key}: {value}" for key, value in facts.items())
        + "\n\n## Use\n\n```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
        + f'model = AutoModelForCausalLM.from_pretrained("{base_model(run)}")  # {where}\n'
        + 'model = PeftModel.from_pretrained(model, "FOLDER OF THIS ADAPTER")\n```\n'
        + _token_note(run.config.model.new_tokens)
        + (
            "\nIt was trained on the base model quantised to 4 bits (NF4). On the full-precision base model its "
            "answers differ slightly.\n"
            if run.config.model.load_in_4bit
            else ""
        )
    )


def _token_note(tokens: tuple[str, ...]) -> str:
    if not tokens:
        return ""
    names = ", ".join(f"`{_plain(token)}`" for token in tokens)
    return (
        f"\nIt brings new tokens: {names}. Load the tokenizer from this folder, and before the adapter call\n"
        "`model.resize_token_embeddings(max(len(tokenizer), model.get_input_embeddings().num_embeddings))`.\n"
    )


def _plain(text: str) -> str:
    """Text that can break neither a Markdown table nor the card's front matter."""
    return re.sub(r"[|<>`\[\]\\\r\n]+", " ", str(text))[:300]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True)
