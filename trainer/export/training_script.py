"""A run as one Python script on transformers, peft, trl and datasets, which trains the same selection without us."""

from __future__ import annotations

import pprint
from pathlib import Path
from typing import Any

from trainer.common import redaction
from trainer.common.templates import Templates
from trainer.config.schema import RunConfig
from trainer.data.rows import columns
from trainer.models.module_map import ModuleMap
from trainer.planning.lora_arguments import lora_arguments
from trainer.planning.plan import Plan

WIDTH = 110
TEMPLATES = Templates(Path(__file__).with_name("templates"), keep_trailing_newline=True)


def training_script(config: RunConfig, plan: Plan, module_map: ModuleMap, title: str) -> str:
    """The script. `title`: of the run, for the header."""
    arguments = lora_arguments(plan.targets, config.adapter, module_map)
    rates = {target.module: target.lr for target in plan.targets if target.lr != config.training.learning_rate}
    text = TEMPLATES.render(
        "training_script.py.jinja",
        title=" ".join(title.split()).replace('"""', "'''").replace("\\", "/"),
        config=config,
        model=_literal(_model(config)),
        auto_class=plan.auto_class,
        data=_literal(_data(config)),
        columns=_literal(_columns(config)),
        lora=pprint.pformat(arguments, width=WIDTH, sort_dicts=False),
        rates=pprint.pformat(rates, width=WIDTH, sort_dicts=False),
        skip=_literal(sorted({*(arguments["modules_to_save"] or ()), "lm_head"})),
        new_token_modules=_literal([target.module for target in plan.targets if target.treatment == "rows"]),
        arguments=pprint.pformat(_training(config), width=WIDTH, sort_dicts=False),
        literal=_literal,
        missing=_missing(config, plan),
    )
    return redaction.redact(text)


def _model(config: RunConfig) -> str:
    """A hub id, or a folder as seen from the folder of the app."""
    name = config.model.name
    if name == "demo":
        return "trainer/demo/model"
    return name if "/" in name else f"models/{name}"


def _data(config: RunConfig) -> dict[str, Any]:
    """Arguments of `datasets.load_dataset`."""
    data = config.data
    if data.source == "hub":
        return {"path": data.path, "name": data.subset or None, "split": data.split}
    files = ["trainer/demo/data/pirate.jsonl"] if data.source == "demo" else _stored(data.path)
    return {"path": _reader(files[0] if files else ""), "data_files": files, "split": "train"}


def _stored(path: str) -> list[str]:
    return [f"runs/data/{name}" for name in path.split()]


def _reader(name: str) -> str:
    """The reader of `datasets` for a file."""
    plain = name.removesuffix(".gz").removesuffix(".zst")
    kinds = {"csv": "csv", "tsv": "csv", "parquet": "parquet", "txt": "text"}
    return kinds.get(plain.rpartition(".")[2].lower(), "json")


def _columns(config: RunConfig) -> dict[str, list[str]]:
    """Names to look for, per column; one that was set by hand is the only one."""
    known = {
        "messages": columns.CONVERSATIONS,
        "prompt": tuple(columns.PROMPTS),
        "input": columns.INPUTS,
        "completion": columns.ANSWERS,
        "system": columns.SYSTEMS,
        "text": columns.TEXTS,
    }
    return {
        key: [picked] if (picked := getattr(config.data, f"{key}_column")) else list(names)
        for key, names in known.items()
    }


def _training(config: RunConfig) -> dict[str, Any]:
    """Arguments of SFTConfig that do not depend on the data or the device."""
    training = config.training
    return {
        "output_dir": "output",
        "num_train_epochs": training.num_train_epochs,
        "max_steps": training.max_steps if training.max_steps > 0 else -1,
        "per_device_train_batch_size": training.per_device_train_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.lr_scheduler_type,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "max_length": training.max_length,
        "seed": training.seed,
        "gradient_checkpointing": training.activation_checkpointing == "on",
        "logging_steps": 1,
        "report_to": "none",
    }


def _missing(config: RunConfig, plan: Plan) -> list[str]:
    """What the script does not do, as sentences."""
    data, training, adapter = config.data, config.training, config.adapter
    sliced = any(target.slices for target in plan.targets)
    pairs = (
        (sliced, "Slices of fused projections are not masked: LoRA trains the whole fused module."),
        (adapter.loraplus_lr_ratio != 1, "LoRA+: B has the learning rate of A."),
        (config.model.quantization == "fp8", "FP8: the frozen weights stay in 16 bits."),
        (bool(plan.checkpoint), "The checkpoint is quantized already: it is loaded as transformers loads it."),
        (bool(data.held_out), "The separate held-out data are not used: a share of the examples is held out."),
        (bool(data.roles or data.assistant_role), "Roles are not renamed: they must be system, user and assistant."),
        (data.bad_rows == "skip", "Rows that cannot be used are not looked for."),
        (training.packing in ("auto", "bfd"), "Batches are not packed."),
    )
    return [
        *(text for applies, text in pairs if applies),
        "Conversations count for the loss with their last answer only.",
        "The held-out examples are drawn by datasets, so they are not the same ones.",
        "Speed settings, the checks before the first step and atomic checkpoints are left out.",
    ]


def _literal(value: Any) -> str:
    return pprint.pformat(value, width=WIDTH, sort_dicts=False)
